"""The training loop: batch, gradients, norm, update, numbers; validation and checkpoints where they are due."""

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from hanbit.common.errors import TrainingError
from hanbit.data.numbered import Numbered
from hanbit.models.batch import Batch
from hanbit.optim.adamw import AdamW
from hanbit.parallel.agree import together
from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.clip import clip_gradients, gradient_norm, local_gradients, scale_gradients
from hanbit.parallel.clock import CLOCK, Phase
from hanbit.parallel.collectives import Purpose, sum_over_world
from hanbit.parallel.pieces import local_tensor
from hanbit.parallel.update import gather_updated, own_rows
from hanbit.train import state
from hanbit.train.metrics import Metrics
from hanbit.train.progress import TrainingProgress
from hanbit.train.setup import Training, known
from hanbit.train.trace import Trace

ROUTER_LOSSES = ("load_balancing_loss", "router_z_loss")  # of a mixture of experts, without their coefficients


class StopRequest:
    """Ctrl-C or SIGTERM sets a flag; the loop ends after the step at hand, with a checkpoint.

    A second Ctrl-C ends at once. torchrun passes a terminal's Ctrl-C on as a second signal by itself, so one that comes
    within a few seconds is taken for the same wish.
    """

    PATIENCE_SECONDS = 3.0

    def __init__(self) -> None:
        self.signal: int | None = None
        self.heard_at = 0.0

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._heard)
            signal.signal(signal.SIGINT, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self.heard_at = number, time.monotonic()
        elif time.monotonic() - self.heard_at > self.PATIENCE_SECONDS:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Watch:
    """Who looks on. `metrics` and `report`, which is made anew with each checkpoint, are rank 0's, else None."""

    metrics: Metrics | None
    progress: TrainingProgress
    trace: Trace
    report: Callable[[], None] | None = None


def train_steps(training: Training, checkpoints: Path, watch: Watch, stop: StopRequest) -> bool:
    """Run to the last step, or until a stop is asked for; True if the last step was reached.

    The last thing done is always a checkpoint.
    """
    while training.step < training.steps:
        with watch.trace.step(training.step + 1):
            numbers, is_stopping = one_step(training, is_stopping=stop.signal is not None)
            _write(numbers, watch)
            _do_what_is_due(training, checkpoints, watch, is_stopping)
        if is_stopping and training.step < training.steps:
            return False
    return True


def _write(numbers: dict[str, Any], watch: Watch) -> None:
    if watch.metrics is not None:
        watch.metrics.write(**numbers)
    watch.progress.show(numbers)


def _do_what_is_due(training: Training, checkpoints: Path, watch: Watch, is_stopping: bool) -> None:
    """Validation and a checkpoint, after the step at hand."""
    every_checkpoint = known(training.recipe.checkpoint.every_steps)
    every_validation = known(training.recipe.validation.every_steps)
    is_last = training.step == training.steps
    is_validating = every_validation and (training.step % every_validation == 0 or is_last) and not is_stopping
    is_saving = is_last or is_stopping or training.step % every_checkpoint == 0
    if is_validating or is_saving:
        _require_finite_weights(training)
    if is_validating:
        with CLOCK.phase(Phase.OTHER, "validation"):
            _validate(training, watch)
    if is_saving:
        with CLOCK.phase(Phase.OTHER, "checkpoint"):
            folder = state.save(training, checkpoints)
        watch.progress.note(f"checkpoint {folder}")
        if watch.report is not None and not is_last:
            watch.report()


def _require_finite_weights(training: Training) -> None:
    """A checkpoint of weights that are no numbers could not be continued. Raises TrainingError on every process."""
    weights = (local_tensor(parameter) for parameter in training.model.trained.values())
    with together(TrainingError):
        if not all(bool(end.isfinite()) for one in weights if one.numel() for end in one.aminmax()):  # hands NaN on
            rate = training.schedule.learning_rate(training.step)
            raise TrainingError(
                f"step {training.step}: its update left weights that are not finite (learning_rate={rate:g}); nothing "
                "was saved of it. Start again to continue from the last checkpoint, with a lower "
                "optimizer.learning_rate, or look at the data"
            )


def one_step(training: Training, is_stopping: bool = False) -> tuple[dict[str, Any], bool]:
    """One optimizer step; the numbers for metrics.jsonl, and whether any process was asked to stop."""
    began = time.perf_counter()
    CLOCK.start(training.model.grid.device)
    loss_scale = 1.0 if training.loss_scale is None else training.loss_scale.scale
    size = training.global_batch
    with CLOCK.phase(Phase.DATA):
        batch = next_batch(training)
        num_targets = training.samples.count_targets(training.samples_seen, size)
    with CLOCK.phase(Phase.FORWARD_BACKWARD):
        share = training.batches.forward_backward(batch, num_targets, loss_scale)
    with CLOCK.phase(Phase.OPTIMIZER):
        norm = gradient_norm(training.model) / loss_scale
    loss, router_losses, is_stopping = _report(training, share, is_stopping)
    is_taken = _may_step(training, loss, norm.item())
    learning_rate = training.schedule.learning_rate(training.step + 1)
    if is_taken:
        with CLOCK.phase(Phase.OPTIMIZER):
            _update(training, norm, learning_rate, loss_scale)
    training.step += 1
    training.samples_seen += size
    training.tokens_seen += num_targets
    spent = CLOCK.stop()
    seconds = time.perf_counter() - began
    return {
        "step": training.step,
        "loss": loss,
        **router_losses,
        "learning_rate": learning_rate,
        "grad_norm": norm.item() if is_taken else None,
        "tokens": training.tokens_seen,
        "step_seconds": seconds,
        "tokens_per_second": num_targets / seconds,
        **training.speed.numbers(seconds, training.steps - training.step, size / training.recipe.batch.global_batch),
        **({} if training.recipe.batch.ramp_up is None else {"global_batch": size}),
        **{f"{phase}_seconds": spent[phase] for phase in Phase if phase is not Phase.OTHER},
        **_scaling(training, loss_scale),
    }, is_stopping


def _may_step(training: Training, loss: float, norm: float) -> bool:
    """False: the gradients overflowed fp16, and the step is skipped, by every process alike. Raises TrainingError."""
    if math.isfinite(loss) and training.loss_scale is not None:
        return training.loss_scale.update(norm)
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise TrainingError(
            f"step {training.step + 1}: loss is {loss}, grad_norm is {norm}; the step was not taken. Start "
            "again to continue from the last checkpoint, with a lower optimizer.learning_rate, or look at the data"
        )
    return True


def _scaling(training: Training, loss_scale: float) -> dict[str, float]:
    if training.loss_scale is None:
        return {}
    return {"loss_scale": loss_scale, "skipped_steps": training.loss_scale.skipped_steps}


def next_batch(training: Training) -> Batch:
    """This process's part of the next global batch."""
    return _batch(training, training.samples, training.samples_seen, training.global_batch)


def _batch(training: Training, samples: Numbered, first: int, size: int) -> Batch:
    """`size` samples from `first` on are shared out over the data axis in order; peers of other axes get the same."""
    data = training.model.grid.data
    count = size // data.size
    start = first + data.rank * count
    arrays = samples.arrays(range(start, start + count))
    device = training.model.grid.device
    return {name: torch.from_numpy(array).contiguous().to(device, non_blocking=True) for name, array in arrays.items()}


def _report(training: Training, share: torch.Tensor, is_stopping: bool) -> tuple[float, dict[str, float], bool]:
    """The global loss, those of routers by name, where there are any, and whether to stop, in one collective.

    Tensor peers all have the same share of the loss.
    """
    losses = training.model.router_losses
    own = (share / training.model.grid.tensor.size, float(is_stopping), *(() if losses is None else losses.total))
    numbers = torch.stack([torch.as_tensor(one, dtype=torch.float64, device=share.device) for one in own])
    loss, stops, *of_routers = sum_over_world(numbers, Purpose.LOSS_REPORT).tolist()
    return loss, dict(zip(ROUTER_LOSSES, of_routers, strict=False)), stops > 0


def _update(training: Training, norm: torch.Tensor, learning_rate: float, loss_scale: float) -> None:
    if loss_scale != 1:
        scale_gradients(training.model, 1 / loss_scale)
    limit = training.recipe.optimizer.clip_grad_norm
    if limit is not None:
        clip_gradients(training.model, norm, limit)
    update_weights(training.model, training.optimizer, learning_rate)


def update_weights(model: ParallelModel, optimizer: AdamW, learning_rate: float) -> None:
    """By the gradients that are there."""
    gradients = local_gradients(model)
    parameters = {name: local_tensor(model.parameters[name]) for name in gradients}
    optimizer.step(own_rows(model, parameters), own_rows(model, gradients), learning_rate)
    gather_updated(model)


def validation_losses(training: Training) -> dict[str, float]:
    """Set name -> mean loss over its first `validation.batches` global batches, always the same ones.

    A set with less than one global batch is left out.
    """
    losses = {name: _validation_loss(training, samples) for name, samples in training.validation.items()}
    return {name: loss for name, loss in losses.items() if loss is not None}


def _validation_loss(training: Training, samples: Numbered) -> float | None:
    size = training.recipe.batch.global_batch
    count = min(training.recipe.validation.batches, len(samples) // size)
    losses = []
    for index in range(count):
        batch = _batch(training, samples, index * size, size)
        share = training.batches.evaluate(batch, samples.count_targets(index * size, size))
        losses.append(_report(training, share, False)[0])
    return sum(losses) / count if count else None


def _validate(training: Training, watch: Watch) -> None:
    """`validation_loss` is the mean of the sets, where they have names."""
    losses = validation_losses(training)
    if not losses:
        return
    for name, loss in losses.items():
        if not math.isfinite(loss):
            where = f" on {name}" if name else ""
            raise TrainingError(
                f"step {training.step}: the validation loss{where} is {loss}, while the weights are finite; nothing "
                "was saved of this step. Start again to continue from the last checkpoint, with a lower "
                "optimizer.learning_rate, or look at the data"
            )
    named = {f"validation_loss.{name}": loss for name, loss in losses.items() if name}
    mean = sum(losses.values()) / len(losses)
    if watch.metrics is not None:
        watch.metrics.write(step=training.step, validation_loss=mean, **named)
    told = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items() if name) or f"{mean:.4f}"
    watch.progress.note(f"step {training.step}  validation loss {told}")
