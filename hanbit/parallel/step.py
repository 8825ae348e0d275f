"""Forward and backward over the micro-batches of one step, and the gradient sums that follow."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from hanbit.models.batch import Batch
from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.clock import CLOCK, Phase
from hanbit.parallel.collectives import Purpose, sum_in_place
from hanbit.parallel.grid import Axis
from hanbit.parallel.pieces import local_gradient
from hanbit.parallel.replicas import Replicas
from hanbit.parallel.schedules import CarriedShapes, Schedule


class MicroBatches:
    """Runs a process's part of the global batch as `count` micro-batches.

    dtype: of matrix products, by autocast; None for the weights' own. Gradients are float32 and summed as such.
    """

    def __init__(
        self, model: ParallelModel, micro_batch: int, count: int, carried: CarriedShapes, dtype: torch.dtype | None
    ) -> None:
        self.model, self.micro_batch, self.count, self.dtype = model, micro_batch, count, dtype
        self.is_sharded = isinstance(model.stages[0], FSDPModule)
        self.scale = 1.0
        self.replicas = [] if self.is_sharded else _replicas_of(model, count)
        summed = {id(parameter) for one in self.replicas for bucket in one.buckets for parameter in bucket}
        self.unsummed = [parameter for parameter in model.learning if id(parameter) not in summed]
        self.carried = carried
        self.schedules: dict[int, Schedule] = {}  # by number of micro-batches: torch's are made for one

    def forward_backward(self, batch: Batch, global_tokens: int, loss_scale: float = 1.0) -> torch.Tensor:
        """Gradients of loss_scale x (summed loss / global_tokens), summed over all processes, in each `.grad`.

        batch: [count * micro_batch, ...] each. Returns this process's share of the unscaled loss, a scalar; zero but
        on the last stage.
        """
        self.scale = loss_scale / global_tokens
        self.model.copy_twins()
        self._expect(self._count_of(batch))
        self._begin_gradients()
        if self.model.router_losses is not None:
            grid = self.model.grid
            self.model.router_losses.begin(self.count * grid.replicas.size, grid.tensor.size)
        with self._arithmetic():
            losses = self._schedule_for(batch).step(batch) if self.has_stages else self._loop(batch)
        self._finish_gradients()
        return self._total(losses) / loss_scale

    @torch.no_grad()
    def evaluate(self, batch: Batch, global_tokens: int) -> torch.Tensor:
        """This process's share of the loss over the global batch, without gradients."""
        self.scale = 1.0 / global_tokens
        self.model.copy_twins()
        with self._arithmetic():
            if self.has_stages:
                losses = self._schedule_for(batch).evaluate(batch)
            else:
                losses = [self._scaled(self.model.stages[0](**part)) for part in self._micro_batches(batch)]
        return self._total(losses)

    def _expect(self, count: int) -> None:
        """Another number of micro-batches than the step before, where the global batch grows."""
        self.count = count
        for one in self.replicas:
            one.micro_batches = count

    @property
    def has_stages(self) -> bool:
        return self.model.grid.pipeline.size > 1

    def _count_of(self, batch: Batch) -> int:
        return len(batch["tokens"]) // self.micro_batch

    def _schedule_for(self, batch: Batch) -> Schedule:
        count, model = self._count_of(batch), self.model
        if count not in self.schedules:
            self.schedules[count] = Schedule(
                model.schedule, model.stages, model.grid, count, self.carried, self._scaled
            )
        return self.schedules[count]

    def _loop(self, batch: Batch) -> list[torch.Tensor]:
        losses = []
        for index, part in enumerate(self._micro_batches(batch)):
            if self.is_sharded:
                self._sync_only_last(index)
            with CLOCK.phase(Phase.FORWARD_BACKWARD, "forward", stage=0, micro_batch=index):
                loss = self._scaled(self.model.stages[0](**part))
            with CLOCK.phase(Phase.FORWARD_BACKWARD, "backward", stage=0, micro_batch=index):
                loss.backward()
            losses.append(loss.detach())
        return losses

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        """Each only as wide as its last target that counts, where what is behind it changes nothing."""
        chunks = {name: tensor.split(self.micro_batch) for name, tensor in batch.items()}
        for index in range(len(chunks["tokens"])):
            part = {name: tensors[index] for name, tensors in chunks.items()}
            if self.model.stages[0].objective.trims:
                counts, time = part["targets"] >= 0, part["targets"].shape[1]
                width = max(1, int((counts.any(0) * torch.arange(1, time + 1, device=counts.device)).max()))
                width += -width % self.model.grid.sequence_parts
                part = {name: tensor[:, :width] for name, tensor in part.items()}
            yield part

    def _sync_only_last(self, index: int) -> None:
        stage: Any = self.model.stages[0]
        stage.set_requires_gradient_sync(index == self.count - 1)
        stage.set_is_last_backward(index == self.count - 1)

    def _scaled(self, output: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        return output.sum() * self.scale

    def _total(self, losses: list[torch.Tensor]) -> torch.Tensor:
        if losses:
            return torch.stack([loss.detach() for loss in losses]).sum()
        return torch.zeros((), device=self.model.grid.device)

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype is None:
            return contextlib.nullcontext()
        # Autocast keeps a weight's cast until it ends, and with it the way back of the first micro-batch: FSDP2 has the
        # weight anew for the next one, whose gradient would then be lost.
        return torch.autocast(self.model.grid.device.type, self.dtype, cache_enabled=not self.is_sharded)

    def _begin_gradients(self) -> None:
        for one in self.replicas:
            one.begin()
        for parameter in self.unsummed:
            parameter.grad = None

    def _finish_gradients(self) -> None:
        for one in self.replicas:
            one.finish()
        self._add_twins()
        self._sum_gradients(self.model.shared_names, self.model.grid.tensor, Purpose.SHARED_GRADIENT)
        for axis, names in self._held_together():
            self._sum_gradients(names, axis, Purpose.TIED_GRADIENT)

    def _held_together(self) -> list[tuple[Axis, tuple[str, ...]]]:
        """Weights by the processes that hold them, in an order that all processes have alike."""
        by_axis: dict[Axis, list[str]] = {}
        for name in sorted(self.model.held):
            by_axis.setdefault(self.model.held[name], []).append(name)
        return [(axis, tuple(names)) for axis, names in by_axis.items()]

    def _add_twins(self) -> None:
        for name, twin in self.model.twins.items():
            gradient, other = local_gradient(self.model.parameters[name]), local_gradient(twin)
            if gradient is not None and other is not None:
                gradient.add_(other)

    def _sum_gradients(self, names: tuple[str, ...], axis: Any, purpose: Purpose) -> None:
        """One collective for all of them: few and small, or one and large, which is then summed where it lies."""
        gradients = [local_gradient(self.model.parameters[name]) for name in names]
        found = [gradient for gradient in gradients if gradient is not None]
        if axis.size == 1 or not found:
            return
        device = self.model.grid.device  # gradients may be offloaded
        if len(found) == 1 and found[0].device == device and found[0].is_contiguous():
            sum_in_place(found[0], axis, purpose)
            return
        total = torch.cat([gradient.flatten() for gradient in found]).to(device)
        sum_in_place(total, axis, purpose)
        for gradient, part in zip(found, total.split([gradient.numel() for gradient in found]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _replicas_of(model: ParallelModel, micro_batches: int) -> list[Replicas]:
    """Experts are summed over those who hold the same ones, all else over all replicas; an axis of one has no sum."""
    experts = [model.trained[name] for name in model.expert_names if name in model.trained]
    apart = {id(parameter) for parameter in experts}
    others = [parameter for parameter in model.learning if id(parameter) not in apart]
    sums = (
        (experts, model.grid.expert_replicas, Purpose.EXPERT_GRADIENT),
        (others, model.grid.replicas, Purpose.REPLICA_GRADIENT),
    )
    return [Replicas(own, axis, micro_batches, purpose) for own, axis, purpose in sums if own and axis.size > 1]
