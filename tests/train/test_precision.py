"""Loss scaling against torch.amp.GradScaler, and runs in fp16 against fp32 ones."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from hanbit.common.capability import Processor
from hanbit.common.errors import ConfigError, TrainingError
from hanbit.config.load import load_recipe
from hanbit.train import loop
from hanbit.train.metrics import read_metrics
from hanbit.train.precision import LossScale
from hanbit.train.resolution import resolution_of
from hanbit.train.run import train
from tests.train.recipes import tiny_run
from tests.train.test_run import parameters_hash

T4, A100 = Processor("Tesla T4", (7, 5)), Processor("NVIDIA A100-SXM4-80GB", (8, 0))


def test_scale_goes_as_torchs_grad_scaler_over_good_and_bad_steps() -> None:
    theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    ours = LossScale(1024.0, window=3)
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    dice = random.Random(3)
    for _ in range(200):
        is_bad = dice.random() < 0.15 and ours.scale > 1
        theirs.scale(weight.sum()).backward()
        assert weight.grad is not None
        if is_bad:
            weight.grad[2] = float("inf") if dice.random() < 0.5 else float("nan")
        assert ours.update(weight.grad.norm().item()) is not is_bad
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        assert (ours.scale, ours.good_steps) == (theirs.get_scale(), theirs._get_growth_tracker())
    assert ours.skipped_steps > 10


def test_gradients_that_no_scale_makes_finite_end_the_run() -> None:
    scale = LossScale(4.0)
    assert [scale.update(float("nan")) for _ in range(2)] == [False, False]
    with pytest.raises(TrainingError, match="loss scale of 1 either"):
        scale.update(float("nan"))


def half_run(folder: Path, *more: str) -> list[str]:
    return [*tiny_run(folder), "training.precision=fp16", "training.loss_scale_window=3", *more]


def test_fp16_run_learns_what_fp32_learns_and_tells_its_scale(tmp_path: Path) -> None:
    single = train("llama/base", [*tiny_run(tmp_path), "name=single"])
    half = train("llama/base", half_run(tmp_path, "training.initial_loss_scale=1024"))
    assert half.loss == pytest.approx(single.loss, rel=2e-3)
    rows = [row for row in read_metrics(half.folder.metrics) if "loss" in row]
    # 12 good steps, doubled after each third; the first row tells the scale of the first step
    assert [row["loss_scale"] for row in rows] == [1024.0 * 2 ** (index // 3) for index in range(12)]
    norms = [row["grad_norm"] for row in read_metrics(single.folder.metrics) if "loss" in row]
    assert [row["grad_norm"] for row in rows] == pytest.approx(norms, rel=2e-2)


def test_overflow_skips_steps_counts_them_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    result = train("llama/base", half_run(tmp_path, "training.initial_loss_scale=1e12", "training.steps=40"))
    text = result.folder.metrics.read_text()
    assert "NaN" not in text  # neither it nor Infinity is JSON
    assert "Infinity" not in text
    rows = [row for row in map(json.loads, text.splitlines()) if "loss" in row]
    skipped = [row["step"] for row in rows if row["grad_norm"] is None]
    assert skipped[:3] == [1, 2, 3]
    assert len(skipped) == rows[-1]["skipped_steps"] < 40
    assert rows[1]["loss_scale"] == rows[0]["loss_scale"] / 2
    assert rows[-1]["loss"] < 0.95 * rows[0]["loss"]


def test_stopped_fp16_run_takes_its_scale_up_again_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = half_run(tmp_path, "training.initial_loss_scale=1e9")
    whole = train("llama/base", asked)
    real = loop.one_step

    def stopping(training: Any, is_stopping: bool = False) -> Any:
        return real(training, is_stopping=training.step == 4)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", stopping)
        stopped = train("llama/base", [*asked, "name=stopped"])
    assert (stopped.is_finished, stopped.step) == (False, 5)
    continued = train("llama/base", [*asked, "name=stopped"])
    assert parameters_hash(continued.folder.checkpoints) == parameters_hash(whole.folder.checkpoints)
    keys = ("loss", "loss_scale", "skipped_steps")
    told = [[row[key] for key in keys] for row in read_metrics(continued.folder.metrics) if "loss" in row]
    assert told == [[row[key] for key in keys] for row in read_metrics(whole.folder.metrics) if "loss" in row]


@pytest.mark.parametrize(
    ("processor", "precision", "reason"),
    [
        (T4, "fp16", "Tesla T4 (sm75) has no bf16"),
        (A100, "bf16", "NVIDIA A100-SXM4-80GB (sm80) has bf16, which needs no loss scaling"),
        (Processor("CPU"), "fp32", "CPU computes 16 bits slower than 32 unless it has AMX or AVX-512"),
    ],
)
def test_auto_takes_what_the_device_has_and_says_why(
    tmp_path: Path, processor: Processor, precision: str, reason: str
) -> None:
    loaded = load_recipe("llama/base", [*tiny_run(tmp_path), "training.precision=auto"])
    found = resolution_of(loaded, 1, "cuda", processor)
    assert found.recipe.training.precision == precision
    assert (precision, reason) in [(d.value, d.reason) for d in found.decisions if d.key == "training.precision"]


@pytest.mark.parametrize(("processor", "precision"), [(T4, "bf16"), (A100, "fp8")])
def test_precision_that_the_device_lacks_is_refused_with_what_it_has(
    tmp_path: Path, processor: Processor, precision: str
) -> None:
    loaded = load_recipe("llama/base", [*tiny_run(tmp_path), f"training.precision={precision}"])
    with pytest.raises(ConfigError, match=rf"training\.precision={precision}.*has no .*It has fp32, fp16") as caught:
        resolution_of(loaded, 1, "cuda", processor)
    assert f"auto, which takes {processor.capability.auto} here" in str(caught.value)
