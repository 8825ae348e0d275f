"""A run stopped in one layout goes on in another, as if one process had done all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hanbit.bench.exactness import free_port
from hanbit.train.metrics import read_metrics
from hanbit.train.run import train
from tests.train.recipes import tiny_run

LAYOUTS = {
    "tensor 2": ["parallel.tensor=2"],
    "pipeline 2": ["parallel.pipeline=2"],
    "pipeline 2, interleaved": ["parallel.pipeline=2", "parallel.virtual=2"],
    "pipeline 2, zero bubble as a V": ["parallel.pipeline=2", "parallel.virtual=2", "parallel.schedule=zero_bubble"],
    "data 2, parameters sharded": ["parallel.shard=3"],
    "expert 2": ["parallel.expert=2"],
}
EXPERTS = ["model.family=mixture", "model.experts=4"]


def train_on_two(overrides: list[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    subprocess.run(
        [*command, "--master-port", str(free_port()), "-m", "hanbit", "train", "llama/base", *overrides],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoint_of_one_layout_continues_in_another(layout: str, tmp_path: Path) -> None:
    """One process to step 4, two processes to 8, one process to 12, against one process all the way."""
    overrides = [*tiny_run(tmp_path), "model.tied=true", "model.query_key_norm=true", "optimizer.schedule=constant"]
    overrides += ["model.layers=4"]  # a V has four stages
    overrides += ["optimizer.warmup_steps=0", "optimizer.epsilon=1e-5"]  # epsilon: see bench/exactness_worker.py
    overrides += EXPERTS if "expert" in layout else []
    whole = train("llama/base", overrides)
    moving = [*overrides, "name=moving"]
    train("llama/base", [*moving, "training.steps=4"])
    train_on_two([*moving, "training.steps=8", *LAYOUTS[layout]])
    moved = train("llama/base", moving)
    losses = {
        name: [row["loss"] for row in read_metrics(run.folder.metrics) if "loss" in row]
        for name, run in (("whole", whole), ("moved", moved))
    }
    assert losses["moved"][:4] == losses["whole"][:4]
    assert losses["moved"] == pytest.approx(losses["whole"], rel=1e-5)
