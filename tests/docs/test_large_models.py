"""The page with the memory bars: its closed form against the dry run's trace, its words, and how it behaves."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.models.registry import family_of
from hanbit.parallel.split import layers_per_stage
from hanbit.train.dry_run_memory import memory_of
from tests.journeys.pages import ROOT
from tests.server.browser import Page, browser, needs_chromium

HTML, SCRIPT = ROOT / "docs/large-models.html", ROOT / "docs/large-models.js"
SHAPE = {"layers": 8, "hidden": 512, "heads": 8, "vocabulary": 2048}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def traced(
    data: int, tensor: int, pipeline: int, shard: bool, recompute: bool, vocabulary: int = SHAPE["vocabulary"]
) -> dict[str, int]:
    """The recipe of the page's setting, as the dry run sees its first rank."""
    sections = {
        **{f"model.{name}": value for name, value in SHAPE.items()},
        "model.vocabulary": vocabulary,
        "batch.micro_batch": 1,
        "batch.global_batch": 8 * data,
        "parallel.tensor": tensor,
        "parallel.pipeline": pipeline,
        "parallel.shard": 2 if shard else 0,
        "training.recompute": "full" if recompute else "none",
    }
    recipe = load_recipe("gpt/1.3b", [f"{key}={value}" for key, value in sections.items()], environment={}).recipe
    recipe = resolve(recipe, world_size=data * tensor * pipeline, vocabulary=None, device="cpu").recipe
    return {part.value: size for part, size in memory_of(recipe, 0).parts.items()}


@needs_chromium
@pytest.mark.parametrize(
    "layout",
    [
        {"data": 1, "tensor": 2, "pipeline": 4, "shard": False, "recompute": False},
        {"data": 1, "tensor": 1, "pipeline": 4, "shard": False, "recompute": True},
        {"data": 1, "tensor": 1, "pipeline": 4, "shard": False, "recompute": True, "vocabulary": 8192},
    ],
)
def test_closed_form_is_what_the_dry_run_traces(tab: Page, layout: dict[str, Any]) -> None:
    tab.open(HTML.as_uri())
    setting = {**SHAPE, "micro": 1, "global": 8 * layout["data"], **layout}
    words = ", ".join(f"{name}: {str(value).lower()}" for name, value in setting.items())
    told, found = tab.evaluate(f"memoryOf({{{words}}})"), traced(**layout)
    for part in ("weights", "gradients", "optimizer"):
        assert told[part] == pytest.approx(found[part], rel=0.05), part
    assert told["activations"] == pytest.approx(found["activations"], rel=0.05)
    assert sum(told.values()) == pytest.approx(sum(found[part] for part in told), rel=0.05)


@needs_chromium
def test_the_first_stage_has_the_layers_that_training_gives_it(tab: Page) -> None:
    """Of every size and degree of the page."""
    tab.open(HTML.as_uri())
    sizes = tab.evaluate("SIZES")
    for size, shape in sizes.items():
        degrees = [one for one in range(1, 25) if shape["layers"] % one == 0]
        told = tab.evaluate(f"{degrees}.map((pipeline) => layersOfFirst({{ ...SIZES['{size}'], pipeline }}))")
        names = ("layers", "hidden", "heads", "vocabulary")
        recipe = load_recipe("gpt/1.3b", [f"model.{name}={shape[name]}" for name in names], environment={}).recipe
        recipe = resolve(recipe, world_size=1, vocabulary=None, device="cpu").recipe
        family = family_of(recipe.model)
        with torch.device("meta"):
            model = family.build(recipe.model)
        assert told == [layers_per_stage(model, family.plan, stages)[0] for stages in degrees], size


def test_the_page_asks_for_nothing_and_has_every_word_in_both_languages() -> None:
    html, script = HTML.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8")
    for text in (html, script):
        assert not re.search(r"https?:|url\(|@import|innerHTML|document\.write|\beval\b", text)
    english, korean = re.findall(r"^  (?:en|ko): \{\n(.*?)^  \},", script, re.MULTILINE | re.DOTALL)
    names = [re.findall(r"(?:^\s+|, )(\w+): '", text, re.MULTILINE) for text in (english, korean)]
    assert sorted(names[0]) == sorted(names[1])
    assert set(re.findall(r'data-word="(\w+)"', html)) <= set(names[0])


@needs_chromium
def test_bars_move_with_the_degrees_and_the_verdict_with_them(tab: Page) -> None:
    tab.open(HTML.as_uri())
    assert tab.problems == []

    def bytes_held() -> float:
        return tab.evaluate("PARTS.reduce((sum, part) => sum + memoryOf(setting())[part], 0)")

    def drag(name: str, place: int) -> None:
        tab.evaluate(f"$('{name}').value = {place}; $('{name}').oninput()")

    drag("tensor", 3)
    cut = bytes_held()
    width = tab.evaluate("document.querySelectorAll('.track')[1].firstChild.style.width")
    drag("tensor", 0)
    assert tab.evaluate("$('tensor-value').textContent") == "1"
    assert bytes_held() > 4 * cut
    assert tab.evaluate("document.querySelectorAll('.track')[1].firstChild.style.width") != width
    assert "does not fit" in tab.evaluate("$('verdict').textContent")
    drag("tensor", 3)
    assert bytes_held() == cut


@needs_chromium
@pytest.mark.parametrize("language", ["en-US", "ko-KR"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_the_page_fits_a_screen_in_both_languages(tab: Page, language: str, size: tuple[int, int]) -> None:
    tab.open(f"{HTML.as_uri()}?{language}{size[0]}", language, size=size)
    assert tab.evaluate("document.documentElement.lang") == language[:2]
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert tab.evaluate("[...document.querySelectorAll('input, select')].every((one) => one.labels.length === 1)")
    assert all(url.startswith("file:") for url in tab.requests)
