"""A run stopped in one layout goes on in another, as if one process had done all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hanbit.bench.group import free_port
from hanbit.common.run_folder import RunFolder
from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.grid import make_grid
from hanbit.train.loop import one_step
from hanbit.train.metrics import read_metrics
from hanbit.train.run import build, train
from hanbit.train.state import find, resume, save
from tests.processes.group import run_in_group
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


def losses_of(folder: RunFolder) -> list[float]:
    return [row["loss"] for row in read_metrics(folder.metrics) if "loss" in row]


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
    losses = {name: losses_of(run.folder) for name, run in (("whole", whole), ("moved", moved))}
    assert losses["moved"][:4] == losses["whole"][:4]
    assert losses["moved"] == pytest.approx(losses["whole"], rel=1e-5)


def losses_by_turns(size: int, settings: list[str], shards: list[int]) -> list[float]:
    """Two steps with each way of sharding, from the checkpoint of the one before."""
    losses = []
    for turn, shard in enumerate(shards):
        loaded = load_recipe("llama/base", [*settings, f"parallel.shard={shard}"])
        recipe = resolve(loaded.recipe, world_size=size, vocabulary=None, device="cpu").recipe
        training = build(recipe, make_grid(1, size, 1, torch.device("cpu")))
        checkpoints = Path(recipe.runs) / "checkpoints"
        if turn:
            resume(training, find(checkpoints, training.model.grid) or checkpoints)
        losses += [one_step(training)[0]["loss"] for _ in range(2)]
        save(training, checkpoints)
    return losses


def test_moments_continue_in_another_way_of_sharding(tmp_path: Path) -> None:
    settings = [*tiny_run(tmp_path), "optimizer.warmup_steps=0", "optimizer.epsilon=1e-5"]
    whole = losses_by_turns(1, [*settings, f"runs={tmp_path}/one"], [0] * 5)
    moved = run_in_group(2, losses_by_turns, 2, [*settings, f"runs={tmp_path}/two"], [1, 3, 1, 0, 1])
    assert moved[0] == moved[1] == pytest.approx(whole, rel=1e-5)
