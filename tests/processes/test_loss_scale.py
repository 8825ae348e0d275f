"""Gradients that overflow on one process alone: all of them skip the step, and go on alike, in every kind of layout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.pieces import local_gradient
from hanbit.train.loop import one_step
from hanbit.train.run import build
from hanbit.train.setup import grid_of
from tests.processes.group import run_in_group
from tests.train.recipes import tiny_run

LAYOUTS = {
    "data 2": [],
    "data 2, optimizer sharded": ["parallel.shard=1"],
    "data 2, gradients sharded": ["parallel.shard=2"],
    "tensor 2": ["parallel.tensor=2"],
    "tensor 2, sequence split": ["parallel.tensor=2", "parallel.sequence=true"],
    "pipeline 2": ["parallel.pipeline=2"],
    "context 2": ["parallel.context=2"],
}

Steps = tuple[list[float], list[float | None], list[float]]


def steps_in_layouts(size: int, folder: str, layouts: list[list[str]]) -> list[Steps]:
    return [steps_of(size, folder, layout) for layout in layouts]


def steps_of(size: int, folder: str, layout: list[str]) -> Steps:
    """Four steps in fp16: scales, norms and losses. After the second's backward pass the last rank alone overflows."""
    settings = [*tiny_run(Path(folder)), "training.precision=fp16", "training.initial_loss_scale=1024", *layout]
    recipe = resolve(load_recipe("llama/base", settings).recipe, world_size=size, vocabulary=None, device="cpu").recipe
    grid = grid_of(recipe, torch.device("cpu"))
    training = build(recipe, grid)
    backward = training.batches.forward_backward

    def poisoned(*arguments: Any) -> torch.Tensor:
        share = backward(*arguments)
        if training.step == 1 and grid.rank == size - 1:
            gradient = local_gradient(training.model.parameters["norm.weight"])
            assert gradient is not None
            gradient.view(-1)[0] = float("inf")
        return share

    training.batches.forward_backward = poisoned  # type: ignore[method-assign]
    rows = [one_step(training)[0] for _ in range(4)]
    scales, norms = [row["loss_scale"] for row in rows], [row["grad_norm"] for row in rows]
    return scales, norms, [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("loss_scale"))


@pytest.fixture(scope="module")
def alone(folder: str) -> Steps:
    return steps_of(1, folder, [])


@pytest.fixture(scope="module")
def together(folder: str, alone: Steps) -> list[list[Steps]]:
    """By rank, then by layout; `alone` has written the data."""
    return run_in_group(2, steps_in_layouts, 2, folder, list(LAYOUTS.values()))


def test_one_process_that_overflows_skips_the_step_and_halves_the_scale(alone: Steps) -> None:
    scales, norms, _ = alone
    assert scales == [1024, 1024, 512, 512]
    assert [norm is None for norm in norms] == [False, True, False, False]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_rank_that_overflows_makes_all_skip_the_step(
    layout: str, alone: Steps, together: list[list[Steps]]
) -> None:
    for rank in together:
        scales, norms, losses = rank[list(LAYOUTS).index(layout)]
        assert scales == alone[0]
        for mine, wanted in zip(norms, alone[1], strict=True):  # fp16 sums the halves of a batch in another order
            assert mine is wanted is None or mine == pytest.approx(wanted, rel=2e-3)
        assert losses == pytest.approx(alone[2], rel=1e-4)
