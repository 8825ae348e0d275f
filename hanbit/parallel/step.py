"""Forward and backward over the micro-batches of one step, and the gradient sums that follow."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.collectives import Purpose, all_reduce
from hanbit.parallel.pieces import local_gradient
from hanbit.parallel.replicas import Replicas


class MicroBatches:
    """Runs a process's part of the global batch as `count` micro-batches of [micro_batch, time] token ids."""

    def __init__(self, model: ParallelModel, count: int, micro_batch: int, time: int, bf16: bool) -> None:
        self.model, self.count, self.bf16 = model, count, bf16
        self.is_sharded = isinstance(model.stage, FSDPModule)
        self.scale = 1.0
        self.replicas = None
        if model.grid.data.size > 1 and not self.is_sharded:
            self.replicas = Replicas(list(model.trained.values()), model.grid.data, count)
        self.schedule = None
        if model.grid.pipeline.size > 1:
            self.schedule = Schedule1F1B(
                _pipeline_stage(model, micro_batch, time), count, loss_fn=self._scaled, scale_grads=False
            )

    def forward_backward(self, inputs: torch.Tensor, targets: torch.Tensor, global_tokens: int) -> torch.Tensor:
        """Gradients of (summed loss / global_tokens), summed over all processes, in every parameter's `.grad`.

        inputs, targets: [count * micro_batch, time] int64. Returns this process's share of that loss, a scalar;
        zero but on the last stage.
        """
        self.scale = 1.0 / global_tokens
        self._begin_gradients()
        losses: list[torch.Tensor] = []
        with self._arithmetic():
            if self.schedule is None:
                self._loop(inputs, targets, losses)
            else:
                self._call(self.schedule.step, inputs, targets, losses)
        self._finish_gradients()
        return self._total(losses)

    @torch.no_grad()
    def evaluate(self, inputs: torch.Tensor, targets: torch.Tensor, global_tokens: int) -> torch.Tensor:
        """This process's share of the loss over the global batch, without gradients."""
        self.scale = 1.0 / global_tokens
        losses: list[torch.Tensor] = []
        with self._arithmetic():
            if self.schedule is None:
                for batch, target in self._micro_batches(inputs, targets):
                    losses.append(self._scaled(self.model.stage(batch, target)))
            else:
                self._call(self.schedule.eval, inputs, targets, losses)
        return self._total(losses)

    def _loop(self, inputs: torch.Tensor, targets: torch.Tensor, losses: list[torch.Tensor]) -> None:
        for index, (batch, target) in enumerate(self._micro_batches(inputs, targets)):
            if self.is_sharded:
                self._sync_only_last(index)
            loss = self._scaled(self.model.stage(batch, target))
            loss.backward()
            losses.append(loss.detach())

    def _micro_batches(
        self, inputs: torch.Tensor, targets: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each only as wide as its last target that counts: attention is causal, what is behind it changes nothing."""
        for batch, target in zip(inputs.chunk(self.count), targets.chunk(self.count), strict=True):
            width = target.shape[1]
            if self.model.stage.has_ignored:
                width = max(1, int(((target >= 0).any(0) * torch.arange(1, width + 1, device=target.device)).max()))
            yield batch[:, :width], target[:, :width]

    def _sync_only_last(self, index: int) -> None:
        stage: Any = self.model.stage
        stage.set_requires_gradient_sync(index == self.count - 1)
        stage.set_is_last_backward(index == self.count - 1)

    def _call(self, run: Any, inputs: torch.Tensor, targets: torch.Tensor, losses: list[torch.Tensor]) -> None:
        """Targets go along as a keyword of the last stage, which computes the loss inside its forward."""
        pipeline = self.model.grid.pipeline
        arguments = (inputs,) if pipeline.is_first else ()
        if pipeline.is_last:
            run(*arguments, target=targets, losses=losses, targets=targets)
        else:
            run(*arguments)

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
    tokens = torch.empty(micro_batch, time, dtype=torch.int64, device="meta")
    hidden = torch.empty(micro_batch, time, width, device="meta", requires_grad=True)
    loss = torch.empty(1, device="meta", requires_grad=True)
    return PipelineStage(
        stage,
        grid.pipeline.rank,
        grid.pipeline.size,
        grid.device,
        input_args=tokens if grid.pipeline.is_first else hidden,
        output_args=loss if grid.pipeline.is_last else hidden,
        group=grid.pipeline.group,
    )


def _hidden_width(model: ParallelModel) -> int:
    """The residual stream's width: every block begins with a norm over it."""
    return model.stage.model.config.hidden  # type: ignore[union-attr, return-value]
