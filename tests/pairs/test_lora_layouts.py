"""LoRA over many processes gives one process's losses and gradient norms; without its own sum it does not."""

from typing import Any

import pytest
import torch

from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.clip import norm_of_each
from hanbit.parallel.collectives import LEFT_OUT, Purpose
from hanbit.train.adapter import model_of
from hanbit.train.loop import one_step
from hanbit.train.run import build
from hanbit.train.setup import grid_of
from tests.processes.group import run_in_group
from tests.tuning.runs import tuning_recipe

STEPS = 3
TWO = {
    "tensor 2": ["parallel.tensor=2"],
    "pipeline 2": ["parallel.pipeline=2"],
    "data 2": ["parallel.data=2"],
    "data 2, gradients sharded": ["parallel.data=2", "parallel.shard=2"],
    "data 2, parameters sharded": ["parallel.data=2", "parallel.shard=3"],
    "tensor 2, sequence split": ["parallel.tensor=2", "parallel.sequence=true"],
    "recompute, tensor 2": ["parallel.tensor=2", "training.recompute=full"],
    "recompute, data 2, parameters sharded": ["parallel.data=2", "parallel.shard=3", "training.recompute=full"],
}
FOUR = {
    "tensor 2 x pipeline 2": ["parallel.tensor=2", "parallel.pipeline=2"],
    "data 2 x tensor 2": ["parallel.data=2", "parallel.tensor=2"],
    "data 2 x pipeline 2": ["parallel.data=2", "parallel.pipeline=2"],
    "data 2 x tensor 2, parameters sharded": ["parallel.data=2", "parallel.tensor=2", "parallel.shard=3"],
}
Measured = dict[str, Any]


def measured(path: str, size: int, overrides: list[str], without: Purpose | None = None) -> Measured:
    """Losses, total norms and the norm of every A's and B's gradient, step by step."""
    loaded = load_recipe(path, overrides, environment={}, model_of=model_of)
    recipe = resolve(loaded.recipe, world_size=size, vocabulary=400, device="cpu").recipe
    grid = grid_of(recipe, torch.device("cpu"))
    LEFT_OUT.update({without} if without else ())
    training = build(recipe, grid)
    losses, norms, each = [], [], []
    for _ in range(STEPS):
        numbers, _ = one_step(training)
        losses.append(numbers["loss"])
        norms.append(numbers["grad_norm"])
        each.append(norm_of_each(training.model))
    LEFT_OUT.clear()
    return {"losses": losses, "norms": norms, "each": each}


def all_layouts(paths: dict[str, str], size: int, layouts: dict[str, list[str]], lame: bool) -> dict[str, Measured]:
    """In one group of processes, because starting Python is what takes long."""
    found = {
        f"{base}, {name}": measured(path, size, overrides)
        for base, path in paths.items()
        for name, overrides in layouts.items()
    }
    if lame:
        path = next(iter(paths.values()))
        found["lame"] = measured(path, size, ["parallel.tensor=2"], Purpose.SHARED_GRADIENT)
    return found


BASES = ("gpt2", "qwen2 tied")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {base: str(tuning_recipe(tmp_path_factory.mktemp("base"), base)) for base in BASES}


@pytest.fixture(scope="module")
def single(paths: dict[str, str]) -> dict[str, Measured]:
    return {base: measured(path, 1, []) for base, path in paths.items()}


@pytest.fixture(scope="module")
def on_two(paths: dict[str, str]) -> dict[str, Measured]:
    return run_in_group(2, all_layouts, paths, 2, TWO, True)[0]


@pytest.fixture(scope="module")
def on_four(paths: dict[str, str]) -> dict[str, Measured]:
    return run_in_group(4, all_layouts, paths, 4, FOUR, False)[0]


def assert_same(found: Measured, wanted: Measured) -> None:
    assert wanted["losses"][-1] < 0.9 * wanted["losses"][0], "equality of standing still proves nothing"
    assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(wanted["norms"], rel=1e-5)
    for mine, theirs, total in zip(found["each"], wanted["each"], wanted["norms"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-7 * total)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("layout", TWO)
def test_two_processes_equal_one(
    base: str, layout: str, single: dict[str, Measured], on_two: dict[str, Measured]
) -> None:
    assert_same(on_two[f"{base}, {layout}"], single[base])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("layout", FOUR)
def test_four_processes_equal_one(
    base: str, layout: str, single: dict[str, Measured], on_four: dict[str, Measured]
) -> None:
    assert_same(on_four[f"{base}, {layout}"], single[base])


def test_without_the_sum_of_shared_gradients_the_difference_is_noticed(
    single: dict[str, Measured], on_two: dict[str, Measured]
) -> None:
    wanted, lame = single["gpt2"], on_two["lame"]
    assert lame["losses"] != pytest.approx(wanted["losses"], rel=1e-4)
    assert lame["norms"] != pytest.approx(wanted["norms"], rel=1e-4)
