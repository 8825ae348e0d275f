"""Gradients in bf16 on two processes against one: every micro-batch must count in every layout."""

from pathlib import Path

import pytest
import torch

from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.clip import norm_of_each
from hanbit.parallel.grid import make_grid
from hanbit.train.loop import one_step
from hanbit.train.run import build
from tests.processes.group import run_in_group
from tests.train.recipes import tiny_run


def gradients_on_one_rank(size: int, folder: str) -> list[dict[str, float]]:
    """Norm of each gradient of the first step, two or more micro-batches in each process; without and with FSDP2."""
    found = []
    for shard in (0, 2, 3) if size > 1 else (0,):
        settings = ["training.precision=bf16", "optimizer.clip_grad_norm=null", f"parallel.shard={shard}"]
        loaded = load_recipe("llama/base", [*tiny_run(Path(folder)), *settings])
        recipe = resolve(loaded.recipe, world_size=size, vocabulary=None, device="cpu").recipe
        training = build(recipe, make_grid(1, size, 1, torch.device("cpu")))
        one_step(training)
        found.append(norm_of_each(training.model))
    return found


def test_bf16_gradients_of_all_micro_batches_count_with_and_without_sharding(tmp_path: Path) -> None:
    (wanted,) = gradients_on_one_rank(1, str(tmp_path))
    for layouts in run_in_group(2, gradients_on_one_rank, 2, str(tmp_path)):
        for found in layouts:
            assert found == pytest.approx(wanted, rel=2e-2)  # bf16 has 8 bits; a lost micro-batch is 40%
