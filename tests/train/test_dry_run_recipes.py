"""Every recipe that comes with hanbit whole, dry-run for the processes it is meant for: of the size in its name, and
within the memory of the GPU that it names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hanbit.config.layers import RECIPES, read_with_bases, recipe_names
from hanbit.train.dry_run import DryRun, dry_run
from hanbit.train.setup import processes_of
from tests.tuning.runs import write_base

NAMED_OTHERWISE = {"llama/1b": 1.24e9, "mixtral/8x7b": 46.7e9}  # by its makers; eight times 7B share their attention
UNITS = {"m": 1e6, "b": 1e9}
TOKENIZER = 8192  # ids of what `hanbit prepare` trains unless told otherwise
ALWAYS = ["bert/tiny", "gpt/126m", "mixtral/8x7b"]
STARTS_FROM_A_FOLDER = {  # which is not kept with hanbit; the test's own knows few letters: more tokens a line
    "smollm2/json-lora": ["batch.sequence_length=1024"],
    "smollm2/korean": [],
    "smollm2/sft": ["batch.sequence_length=1024"],
}
SLOW = sorted({*recipe_names()} - {*ALWAYS} - {*STARTS_FROM_A_FOLDER})  # seconds each, gpt/175b most of a minute


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither data nor tokenizer are there, as on a laptop far from the cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def section_of(name: str, section: str) -> dict[str, Any]:
    return read_with_bases(RECIPES / f"{name}.yaml").data.get(section, {})


def overrides_of(name: str) -> list[str]:
    """The size of the tokenizer, where it is to say the model's vocabulary."""
    return [] if "vocabulary" in section_of(name, "model") else [f"model.vocabulary={TOKENIZER}"]


def check(name: str, found: DryRun) -> None:
    recipe = found.recipe
    assert found.processes == processes_of(recipe)
    pipeline = recipe.parallel.pipeline
    assert [one.stage for one in found.memory] == list(found.stages) == sorted({0, pipeline // 2, pipeline - 1})
    assert found.flops_per_step > 4 * found.trained  # each meets a token at least
    size = re.search(r"(\d+(?:\.\d+)?)([mb])$", name)
    if size:
        wanted = NAMED_OTHERWISE.get(name, float(size[1]) * UNITS[size[2]])
        assert found.parameters == pytest.approx(wanted, rel=0.1)
    room = None if recipe.cluster is None else recipe.cluster.gpu_memory_gb
    fullest = max(one.total for one in found.memory)
    assert 16 * found.trained / found.processes <= fullest * 1.01  # the numbers of training are somewhere
    assert room is None or fullest < 0.9 * room * 1e9  # kernels and NCCL need some, too


@pytest.mark.parametrize("name", ALWAYS)
def test_a_recipe_is_looked_at_and_fits(name: str) -> None:
    check(name, dry_run(name, overrides_of(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_so_is_every_other_one(name: str) -> None:
    check(name, dry_run(name, overrides_of(name)))


@pytest.mark.parametrize("name", STARTS_FROM_A_FOLDER)
def test_so_is_one_that_starts_from_a_model_folder(name: str) -> None:
    """A tiny one stands in its place."""
    values = read_with_bases(RECIPES / f"{name}.yaml").data
    start = values["tuning"]["model"] if "tuning" in values else values["training"]["initial_model"]
    config = write_base(Path(start)) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 2048}))
    found = dry_run(name, STARTS_FROM_A_FOLDER[name])
    check(name, found)
    assert found.trained == found.parameters or "tuning" in values
