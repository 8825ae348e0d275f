"""What the contestants of `hanbit bench train` are given."""

from pathlib import Path

import torch

from hanbit.bench.train import Plan, write_recipe
from hanbit.train.setup import AUTOCAST


def test_a_precision_left_to_the_machine_is_decided_before_they_start(tmp_path: Path) -> None:
    small = ["model.layers=1", "model.vocabulary=100", "batch.sequence_length=16"]
    plan = Plan("llama/tiny", Path("nowhere"), "python", rounds=1)
    recipe = write_recipe(tmp_path, plan, False, [*small, "training.precision=auto", "training.device=cpu"])
    assert AUTOCAST[recipe.training.precision] is None  # what a CPU takes: fp32
    named = write_recipe(tmp_path, plan, False, [*small, "training.precision=bf16", "training.device=cpu"])
    assert AUTOCAST[named.training.precision] is torch.bfloat16
