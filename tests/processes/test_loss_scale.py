"""Gradients that overflow on one process alone: all of them skip the step, and go on alike."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.grid import make_grid
from hanbit.parallel.pieces import local_gradient
from hanbit.train.loop import one_step
from hanbit.train.run import build
from tests.processes.group import run_in_group
from tests.train.recipes import tiny_run


def steps_on_one_rank(size: int, folder: str, shard: int) -> tuple[list[Any], list[Any], list[float]]:
    """Four steps in fp16; after the backward pass of the second the last rank has an infinite gradient."""
    settings = [*tiny_run(Path(folder)), "training.precision=fp16", "training.initial_loss_scale=1024"]
    loaded = load_recipe("llama/base", [*settings, f"parallel.shard={shard}"])
    recipe = resolve(loaded.recipe, world_size=size, vocabulary=None, device="cpu").recipe
    grid = make_grid(1, size, 1, torch.device("cpu"))
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


@pytest.mark.parametrize("shard", [0, 2])
def test_one_rank_that_overflows_makes_all_skip_the_step(tmp_path: Path, shard: int) -> None:
    scales, norms, losses = steps_on_one_rank(1, str(tmp_path), 0)
    assert scales == [1024, 1024, 512, 512]
    assert [norm is None for norm in norms] == [False, True, False, False]
    for rank in run_in_group(2, steps_on_one_rank, 2, str(tmp_path), shard):
        assert rank[0] == scales
        for mine, wanted in zip(rank[1], norms, strict=True):  # fp16 sums the halves of a batch in another order
            assert mine is wanted is None or mine == pytest.approx(wanted, rel=2e-3)
        assert rank[2] == pytest.approx(losses, rel=1e-4)
