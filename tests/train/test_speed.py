"""Speed, memory and time left against numbers worked out by hand and against the kernel."""

from pathlib import Path

import pytest
import torch

from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.clock import Phase
from hanbit.parallel.grid import Axis, Grid
from hanbit.train.metrics import read_metrics
from hanbit.train.progress import line_of
from hanbit.train.run import train
from hanbit.train.speed import Speed, peak_memory_bytes, speed_of
from tests.train.recipes import tiny_run

CPU = torch.device("cpu")


def test_speed_is_flops_over_seconds_and_mfu_its_part_of_the_peak() -> None:
    numbers = Speed(CPU, 6e9, 8e9).numbers(seconds=3.0, steps_left=10)
    assert numbers["model_flops_per_second"] == 2e9
    assert numbers["mfu"] == 0.25
    assert numbers["time_left_seconds"] == 30


def test_what_is_not_known_is_none_and_not_invented() -> None:
    assert Speed(CPU, 6e9, None).numbers(1.0, 1)["mfu"] is None
    tuned = Speed(CPU, None, 8e9).numbers(1.0, 1)
    assert (tuned["model_flops_per_second"], tuned["mfu"]) == (None, None)


def test_time_left_does_not_jump_with_one_slow_step() -> None:
    speed = Speed(CPU, None, None)
    for seconds in (1.0, 1.0, 90.0, 1.0):
        left = speed.numbers(seconds, steps_left=5)["time_left_seconds"]
    assert left == 5


def test_peak_memory_of_the_cpu_is_the_kernels_high_water_mark() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux tells")
    mark = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert peak_memory_bytes(CPU) == pytest.approx(int(mark.split()[1]) * 1024, rel=0.05)


def test_every_row_of_a_run_tells_its_speed_and_where_its_time_went(tmp_path: Path) -> None:
    result = train("llama/base", [*tiny_run(tmp_path), "training.steps=3", "logging.peak_flops_per_second=1e12"])
    rows = [row for row in read_metrics(result.folder.metrics) if "loss" in row]
    # llama, 2 layers of width 32, 4 heads of which 2 hold keys, head_dim 8, tied output counted once
    inner = 128  # 8/3 x 32 = 85.3, up to a multiple of 64
    products = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * inner) + 32 * 513
    flops = (6 * products + 12 * 2 * 32 * 32) * 8 * 32
    for left, row in zip((2, 1, 0), rows, strict=True):
        assert row["model_flops_per_second"] == pytest.approx(flops / row["step_seconds"])
        assert row["mfu"] == pytest.approx(row["model_flops_per_second"] / 1e12)
        assert row["peak_memory_bytes"] > 50e6
        assert (row["time_left_seconds"] > 0) == (left > 0)
        parts = [row[f"{phase}_seconds"] for phase in Phase if phase is not Phase.OTHER]
        assert min(row[f"{phase}_seconds"] for phase in ("data", "forward_backward", "optimizer")) > 0
        assert row["pipeline_idle_seconds"] == row["communication_seconds"] == 0
        assert sum(parts) <= row["step_seconds"]


# Multiplications and scores of a sequence of 128 tokens, of recipes of width 96 and 8192 token ids, by hand:
# bert: 19 of 125 words are hidden and go through the head, one token through the second head
# t5: 141 tokens of text make 128 for the encoder, 29 for the decoder; keys and values of its cross attention have 128
# mixtral: two of eight experts
HIDDEN, VOCABULARY = 96, 8192
BY_HAND = {
    "bert/tiny": (
        128 * 4 * 12 * HIDDEN**2 + 19 * (HIDDEN**2 + VOCABULARY * HIDDEN) + HIDDEN**2 + 2 * HIDDEN,
        4 * 128**2,
    ),
    "t5/tiny": (
        3 * HIDDEN**2 * (128 * 12 + 29 * 14 + 128 * 2) + 29 * VOCABULARY * HIDDEN,
        3 * (128**2 + 29**2 + 29 * 128),
    ),
    "mixtral/tiny": (
        128 * (4 * (3 * HIDDEN**2 + 8 * HIDDEN + 2 * 3 * HIDDEN * 128) + VOCABULARY * HIDDEN),
        4 * 128**2,
    ),
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_every_family_has_a_speed_and_it_is_of_what_its_task_needs(name: str) -> None:
    recipe = resolve(load_recipe(name, environment={}).recipe, world_size=1, vocabulary=VOCABULARY).recipe
    products, pairs = BY_HAND[name]
    speed = speed_of(recipe, Grid(CPU, Axis("pipeline"), Axis("data"), Axis("tensor")))
    assert speed.flops_per_step == 16 * (6 * products + 12 * HIDDEN * pairs)


def test_a_line_of_progress_has_mfu_only_where_it_is_known() -> None:
    row = {"loss": 2.5, "learning_rate": 1e-3, "grad_norm": 1.0, "tokens_per_second": 1500.0, "mfu": None}
    assert line_of(row) == "loss 2.500  lr 1.0e-03  norm 1.00  1.5K tok/s"
    assert line_of({**row, "mfu": 0.414}).endswith("mfu 41%")
