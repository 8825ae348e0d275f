"""Every recipe that comes with hanbit: whole, resolvable, of the size in its name, and nothing said twice."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hanbit.config.keys import known_keys
from hanbit.config.layers import RECIPES, read_with_bases, recipe_names
from hanbit.config.load import load_recipe
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import Resolved, expected_processes, resolve
from hanbit.config.write import to_yaml
from hanbit.config.yaml_file import read_document
from hanbit.models.registry import family_of

TOKENIZER = 8192  # what `hanbit prepare` trains unless told otherwise

# As published with the models whose shape each recipe has, or by hand:
# tiny: 8192 x 96 + 4 x (2 x 96 x 96 + 2 x 96 x 48 + 3 x 96 x 256 + 2 x 96) + 96
# mixtral/tiny: 8192 x 96 + 4 x (2 x 96 x 96 + 2 x 96 x 48 + 8 x 96 + 8 x 3 x 96 x 128 + 2 x 96) + 96
# bert/tiny: (8192 + 128 + 2 + 2) x 96 + 4 x (12 x 96 x 96 + 13 x 96) + 2 x (96 x 96 + 96) + 2 x 96 + 8192 + 2 x 97
# t5/tiny: 8192 x 96 + 3 x (28 x 96 x 96 + 5 x 96) + 2 x 32 x 4 + 2 x 96
# bert/4b: (30522 + 512 + 2 + 2) x 2560 + 48 x (12 x 2560 x 2560 + 13 x 2560) + 2560 x 2560 + 2560 + 2 x 2560 + 30522
# t5/3b: 32128 x 2048 + 24 x (4 + 8) x 2048 x 2048 + 2 x 24 x 3 x 2048 x 5120 + 24 x 5 x 2048 + 2 x 32 x 32 + 2 x 2048,
# t5/11b, mt5/3b, mt5/170m likewise, the last with heads of 64 that make 384
# 126m: 50257 x 768 + 2048 x 768 + 12 x (12 x 768 x 768 + 13 x 768) + 2 x 768, and so on for every GPT, with 51200
# 70b: 2 x 128256 x 8192 + 80 x (2 x 8192 x 8192 + 2 x 8192 x 1024 + 3 x 8192 x 28672 + 2 x 8192) + 8192
PARAMETERS = {
    "llama/tiny": 1_192_800,
    "llama/15m": 15_191_712,
    "llama/60m": 58_073_600,
    "llama/1b": 1_235_814_400,
    "llama/8b": 8_030_261_248,
    "smollm2/135m": 134_515_008,
    "gpt/126m": 125_226_240,
    "mixtral/tiny": 2_080_608,
    "mixtral/8x7b": 46_702_792_704,
    "bert/tiny": 1_273_666,
    "bert/110m": 110_106_428,
    "t5/tiny": 1_562_464,
    "t5/220m": 222_903_552,
    "t5/3b": 2_783_959_040,
    "t5/11b": 11_003_736_064,
    "mt5/3b": 3_230_390_272,
    "mt5/170m": 172_119_424,
    "bert/4b": 3_862_520_122,
    "gpt/1.3b": 1_317_654_528,
    "gpt/5b": 5_051_228_160,
    "gpt/20b": 20_262_014_976,
    "gpt/40b": 39_096_041_472,
    "gpt/175b": 174_615_846_912,
    "llama/70b": 70_553_706_496,
}


def loaded(name: str) -> Recipe:
    """A recipe that tunes reads the shape from its base's folder; here it is that of the recipe it is made for."""
    shape = read_with_bases(RECIPES / "smollm2/135m.yaml").data["model"]
    return load_recipe(name, environment={}, model_of=lambda folder: shape).recipe


def resolved(recipe: Recipe) -> Resolved:
    """For the processes that the recipe is meant for: those of its cluster, or as few as can be."""
    processes = expected_processes(recipe)
    vocabulary = TOKENIZER if recipe.model.vocabulary == "auto" else None
    return resolve(recipe, world_size=processes, vocabulary=vocabulary, device="cpu")


def leaves(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in data.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_there_are_recipes_of_every_family() -> None:
    assert {*PARAMETERS, "demo"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_resolves_and_comes_back_from_its_resolved_file(name: str, tmp_path: Path) -> None:
    found = resolved(loaded(name))
    assert "auto" not in leaves(found.recipe.model_dump()).values()
    assert found.notes == ()
    path = tmp_path / "config.resolved.yaml"
    path.write_text(to_yaml(found.recipe), encoding="utf-8")
    assert load_recipe(path, environment={}).recipe == found.recipe


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_named_like_its_file(name: str) -> None:
    assert loaded(name).name == name.replace("/", "-")


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_recipe_has_the_number_of_parameters_that_its_name_says(name: str) -> None:
    config = resolved(load_recipe(name, environment={}).recipe).recipe.model
    with torch.device("meta"):
        model = family_of(config).build(config)
    weights = {id(parameter): parameter for parameter in model.parameters()}.values()
    assert sum(math.prod(weight.shape) for weight in weights) == PARAMETERS[name]


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_a_file_says_only_what_its_base_does_not(path: Path) -> None:
    own = read_document(path).data
    base = own.pop("base", None)
    below = leaves(read_with_bases(RECIPES / f"{base}.yaml").data) if base else {}
    assert {key: value for key, value in leaves(own).items() if below.get(key, ...) == value} == {}
    assert set(leaves(own)) <= set(known_keys())


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_a_file_tells_editors_its_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    mark = "# yaml-language-server: $schema="
    assert first.startswith(mark)
    assert (path.parent / first.removeprefix(mark)).resolve() == RECIPES.resolve() / "recipe.schema.json"
