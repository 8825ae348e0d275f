"""Forward and backward over the micro-batches of one step, and the gradient sums that follow."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from hanbit.models.batch import Batch
from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.collectives import Purpose, all_reduce
from hanbit.parallel.pieces import local_gradient
from hanbit.parallel.replicas import Replicas


class MicroBatches:
    """Runs a process's part of the global batch as `count` micro-batches of [micro_batch, time] tokens."""

    def __init__(self, model: ParallelModel, count: int, micro_batch: int, time: int, bf16: bool) -> None:
        self.model, self.count, self.bf16 = model, count, bf16
        self.is_sharded = isinstance(model.stage, FSDPModule)
        self.scale = 1.0
        self.replicas = None
        if model.grid.replicas.size > 1 and not self.is_sharded:
            self.replicas = Replicas(list(model.trained.values()), model.grid.replicas, count)
        self.schedule = None
        if model.grid.pipeline.size > 1:
            self.schedule = Schedule1F1B(
                _pipeline_stage(model, micro_batch, time), count, loss_fn=self._scaled, scale_grads=False
            )

    def forward_backward(self, batch: Batch, global_tokens: int) -> torch.Tensor:
        """Gradients of (summed loss / global_tokens), summed over all processes, in every parameter's `.grad`.

        batch: [count * micro_batch, ...] each. Returns this process's share of that loss, a scalar; zero but on the
        last stage.
        """
        self.scale = 1.0 / global_tokens
        self._begin_gradients()
        losses: list[torch.Tensor] = []
        with self._arithmetic():
            if self.schedule is None:
                self._loop(batch, losses)
            else:
                self._call(self.schedule.step, batch, losses)
        self._finish_gradients()
        return self._total(losses)

    @torch.no_grad()
    def evaluate(self, batch: Batch, global_tokens: int) -> torch.Tensor:
        """This process's share of the loss over the global batch, without gradients."""
        self.scale = 1.0 / global_tokens
        losses: list[torch.Tensor] = []
        with self._arithmetic():
            if self.schedule is None:
                losses = [self._scaled(self.model.stage(**part)) for part in self._micro_batches(batch)]
            else:
                self._call(self.schedule.eval, batch, losses)
        return self._total(losses)

    def _loop(self, batch: Batch, losses: list[torch.Tensor]) -> None:
        for index, part in enumerate(self._micro_batches(batch)):
            if self.is_sharded:
                self._sync_only_last(index)
            loss = self._scaled(self.model.stage(**part))
            loss.backward()
            losses.append(loss.detach())

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        """Each only as wide as its last target that counts, where what is behind it changes nothing."""
        chunks = {name: tensor.chunk(self.count) for name, tensor in batch.items()}
        for index in range(self.count):
            part = {name: tensors[index] for name, tensors in chunks.items()}
            if self.model.stage.objective.trims:
                counts, time = part["targets"] >= 0, part["targets"].shape[1]
                width = max(1, int((counts.any(0) * torch.arange(1, time + 1, device=counts.device)).max()))
                part = {name: tensor[:, :width] for name, tensor in part.items()}
            yield part

    def _sync_only_last(self, index: int) -> None:
        stage: Any = self.model.stage
        stage.set_requires_gradient_sync(index == self.count - 1)
        stage.set_is_last_backward(index == self.count - 1)

    def _call(self, run: Any, batch: Batch, losses: list[torch.Tensor]) -> None:
        """The batch goes to every stage as keywords; the last one computes the loss inside its forward."""
        run(target=batch["targets"], losses=losses, **batch)

    def _scaled(self, output: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        return output.sum() * self.scale

    def _total(self, losses: list[torch.Tensor]) -> torch.Tensor:
        if losses:
            return torch.stack([loss.detach() for loss in losses]).sum()
        return torch.zeros((), device=self.model.grid.device)

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.model.grid.device.type, torch.bfloat16)

    def _begin_gradients(self) -> None:
        if self.replicas is not None:
            self.replicas.begin()
            return
        for parameter in self.model.trained.values():
            parameter.grad = None

    def _finish_gradients(self) -> None:
        if self.replicas is not None:
            self.replicas.finish()
        self._sum_gradients(self.model.shared_names, self.model.grid.tensor, Purpose.SHARED_GRADIENT)
        self._sum_gradients(self.model.tied_names, self.model.grid.ends, Purpose.TIED_GRADIENT)

    def _sum_gradients(self, names: tuple[str, ...], axis: Any, purpose: Purpose) -> None:
        """One collective for all of them: they are few and small, or one and large."""
        gradients = [local_gradient(self.model.parameters[name]) for name in names]
        found = [gradient for gradient in gradients if gradient is not None]
        if axis.size == 1 or not found:
            return
        total = all_reduce(torch.cat([gradient.flatten() for gradient in found]), axis, purpose)
        for gradient, part in zip(found, total.split([gradient.numel() for gradient in found]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _pipeline_stage(model: ParallelModel, micro_batch: int, time: int) -> PipelineStage:
    """Shapes are told beforehand, so that no trial run and no pickled message is needed."""
    grid, stage = model.grid, model.stage
    width = _hidden_width(model)
    hidden = torch.empty(micro_batch, time, width, device="meta", requires_grad=True)
    loss = torch.empty(1, device="meta", requires_grad=True)
    return PipelineStage(
        stage,
        grid.pipeline.rank,
        grid.pipeline.size,
        grid.device,
        input_args=() if grid.pipeline.is_first else hidden,
        output_args=loss if grid.pipeline.is_last else hidden,
        group=grid.pipeline.group,
    )


def _hidden_width(model: ParallelModel) -> int:
    """The residual stream's width: every block begins with a norm over it."""
    return model.stage.model.config.hidden  # type: ignore[union-attr, return-value]
