"""Pipeline schedules: in which order the stages take up micro-batches, forward and backward. All are torch's.

gpipe         all micro-batches forward, then all backward (Huang et al., arXiv 1811.06965)
1f1b          one forward, one backward, so that few activations wait (Narayanan et al., arXiv 1806.03377)
interleaved   1f1b with several stages in each process: shorter idle times for more messages (arXiv 2104.04473)
zero_bubble   a backward pass in two: the input's gradient first, for the stage before, the weights' when there is
              nothing else to do (Qi et al., arXiv 2401.10241); with two stages a process they are laid as a V
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from hanbit.parallel.clock import CLOCK, Phase
from hanbit.parallel.grid import Axis, Grid
from hanbit.parallel.receiving import ReceivingStage
from hanbit.parallel.stage import Stage

ScheduleName = Literal["gpipe", "1f1b", "interleaved", "zero_bubble"]
FORWARD_ACTIONS = {"F", "SEND_F", "RECV_F", "UNSHARD", "RESHARD"}


def is_v(name: ScheduleName, virtual: int) -> bool:
    """The stages go down the processes and back up: the first and the last one are in the same process."""
    return name == "zero_bubble" and virtual == 2


def stage_numbers(name: ScheduleName, virtual: int, pipeline: Axis) -> tuple[int, ...]:
    """The stages of one process, from 0, among pipeline.size x virtual: dealt in rounds, or as a V."""
    if is_v(name, virtual):
        return (pipeline.rank, 2 * pipeline.size - 1 - pipeline.rank)
    return tuple(pipeline.rank + pipeline.size * turn for turn in range(virtual))


CarriedShapes = Callable[[int], tuple[tuple[int, ...], ...]]
"""Of a micro-batch, the shapes of what is carried into the layer of this number."""


class Schedule:
    """Runs the stages of this process together with those of its peers; built for micro-batches of one shape."""

    def __init__(
        self,
        name: ScheduleName,
        stages: tuple[Stage, ...],
        grid: Grid,
        count: int,
        carried: CarriedShapes,
        loss: Any,
    ) -> None:
        """carried: what travels. loss(output, target) scales the last stage's sum."""
        parts = [_pipeline_stage(stage, grid, len(stages) * grid.pipeline.size, carried) for stage in stages]
        self.is_single = name in ("gpipe", "1f1b")
        options: dict[str, Any] = {"loss_fn": loss, "scale_grads": False}  # scaled twice where a weight is tied
        kind = _kind(name, len(stages))
        self.schedule: Any = kind(parts[0] if self.is_single else parts, count, **options)

    def step(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Forward and backward; the losses of the micro-batches, in the process of the last stage only."""
        losses: list[torch.Tensor] = []
        with CLOCK.phase(Phase.PIPELINE_IDLE):  # what its stages' passes do not take
            self.schedule.step(target=batch["targets"], losses=losses, return_outputs=False, **batch)
        return losses

    def evaluate(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Forward only. torch would go through the backward actions too, and fails there where stages form a V."""
        losses: list[torch.Tensor] = []
        if self.is_single:
            self.schedule.eval(target=batch["targets"], losses=losses, return_outputs=False, **batch)
            return losses
        orders = self.schedule.pipeline_order_with_comms
        self.schedule.pipeline_order_with_comms = {
            process: [action for action in order if action.computation_type.value in FORWARD_ACTIONS]
            for process, order in orders.items()
        }
        try:
            self.schedule.eval(target=batch["targets"], losses=losses, return_outputs=False, **batch)
        finally:
            self.schedule.pipeline_order_with_comms = orders
        return losses


def _kind(name: ScheduleName, virtual: int) -> Any:
    if name == "zero_bubble":
        return ScheduleZBVZeroBubble if is_v(name, virtual) else ScheduleInterleavedZeroBubble
    return {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B}[name]


def _pipeline_stage(stage: Stage, grid: Grid, stages: int, carried: CarriedShapes) -> ReceivingStage:
    """Shapes are told beforehand, so that no trial run and no pickled message is needed."""
    loss = torch.empty(1, device="meta", requires_grad=True)
    made = ReceivingStage(
        stage,
        stage.number,
        stages,
        grid.device,
        input_args=() if stage.number == 0 else _described(carried(stage.layers.start)),
        output_args=loss if stage.is_last else _described(carried(stage.layers.stop)),
        group=grid.pipeline.group,
    )
    for name, told in _PASSES.items():
        setattr(made, name, _counted(getattr(made, name), told, stage.number))
    return made


_PASSES = {
    "forward_one_chunk": "forward",
    "backward_one_chunk": "backward",
    "backward_weight_one_chunk": "backward of weights",
}


def _counted(work: Callable[..., Any], name: str, stage: int) -> Callable[..., Any]:
    """A pass of a stage, as work on the clock of the step. torch hands the micro-batch's number first."""

    def counted(micro_batch: int, *arguments: Any, **named: Any) -> Any:
        told = name if named.get("full_backward", True) else f"{name} of inputs"
        with CLOCK.phase(Phase.FORWARD_BACKWARD, told, stage=stage, micro_batch=micro_batch):
            return work(micro_batch, *arguments, **named)

    return counted


def _described(shapes: tuple[tuple[int, ...], ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.empty(shape, device="meta", requires_grad=True) for shape in shapes)
