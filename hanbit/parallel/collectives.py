"""Every collective of a training step that is ours, each with its purpose.

All of them pass through here, so that one place names them, and so that a proof can leave out a single one and
show that the result becomes wrong (`hanbit bench exactness`). What FSDP2 and the pipeline schedule send
themselves is listed too; the proof leaves those out where they are made.

`enter` and `leave` are the two halves of a tensor-parallel region (Shoeybi et al., Megatron-LM, arXiv 1909.08053,
there called f and g).
"""

from enum import StrEnum
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as functional

from hanbit.parallel.grid import Axis


class Purpose(StrEnum):
    REGION_ENTER = "tensor.region_enter"  # backward: gradients of a region's input are summed
    ROW_LEAVE = "tensor.row_leave"  # forward: partial outputs of a ROW layer are summed
    EMBEDDING_LEAVE = "tensor.embedding_leave"  # forward: each rank embeds only its own token ids
    HEAD_ENTER = "tensor.head_enter"  # backward: gradients of the head's input are summed
    LOSS_MAXIMUM = "tensor.loss_maximum"  # the largest logit over the whole vocabulary
    LOSS_DENOMINATOR = "tensor.loss_denominator"  # the sum of exponentials over the whole vocabulary
    LOSS_TARGET = "tensor.loss_target"  # the target's logit, which one rank has
    SHARED_GRADIENT = "tensor.shared_gradient"  # gradients of whole weights used on a slice of the heads
    EXPERT_DISPATCH = "expert.dispatch"  # rows travel to the experts that they go through
    EXPERT_COMBINE = "expert.combine"  # the experts' outputs travel back
    EXPERT_GRADIENT = "expert.replica_gradient"  # gradients of experts are summed over those who hold the same ones
    REPLICA_GRADIENT = "data.replica_gradient"  # gradients of whole replicas are summed
    SHARD_REDUCE = "data.shard_reduce"  # FSDP2: gradients are summed and scattered
    SHARD_GATHER = "data.shard_gather"  # FSDP2: parameters are gathered before use
    STAGE_FORWARD = "pipeline.stage_forward"  # hidden states travel to the next stage
    STAGE_BACKWARD = "pipeline.stage_backward"  # their gradients travel back
    TIED_GRADIENT = "pipeline.tied_gradient"  # gradients of the embedding and of the output that shares it are summed
    GRADIENT_NORM = "world.gradient_norm"  # the squares of all gradients are summed, for clipping
    LOSS_REPORT = "world.loss_report"  # the loss of the step, for people


LEFT_OUT: set[Purpose] = set()
"""Purposes whose collective does nothing. Always empty but in a proof that each of them is needed."""


def all_reduce(tensor: torch.Tensor, axis: Axis, purpose: Purpose, operation: str = "sum") -> torch.Tensor:
    """The sum (or "max") of `tensor` over the axis; a new tensor, but the same on an axis of one. Traceable."""
    if axis.size == 1 or purpose in LEFT_OUT:
        return tensor
    return functional.wait_tensor(functional.all_reduce(tensor, operation, axis.group))  # type: ignore[arg-type]


def start_all_reduce(tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> "dist.Work | None":
    """Begin summing `tensor` in place over the axis; the returned work's `wait()` ends it. Not traceable."""
    if purpose in LEFT_OUT:
        return None
    return dist.all_reduce(tensor, group=axis.group, async_op=True)


def sum_over_world(tensor: torch.Tensor, purpose: Purpose) -> torch.Tensor:
    """The sum of `tensor` over all processes, in place."""
    if dist.is_initialized() and purpose not in LEFT_OUT:
        dist.all_reduce(tensor)
    return tensor


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> torch.Tensor:
        context.axis, context.purpose = axis, purpose
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return all_reduce(gradients[0].contiguous(), context.axis, context.purpose), None, None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> torch.Tensor:
        reduced = all_reduce(tensor.contiguous(), axis, purpose)
        return reduced.clone() if reduced is tensor else reduced

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0], None, None


def enter(tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> torch.Tensor:
    """Into a region where each rank computes a part: forward nothing, backward the sum over the axis."""
    return tensor if axis.size == 1 else _Enter.apply(tensor, axis, purpose)


def leave(tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> torch.Tensor:
    """Out of such a region: forward the sum over the axis, backward nothing."""
    return tensor if axis.size == 1 else _Leave.apply(tensor, axis, purpose)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, rows: torch.Tensor, sent: list[int], got: list[int], axis: Axis, purpose: Purpose
    ) -> torch.Tensor:
        context.arguments = got, sent, axis, purpose
        return _exchanged(rows, sent, got, axis, purpose)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return _exchanged(gradients[0], *context.arguments), None, None, None, None


def _exchanged(rows: torch.Tensor, sent: list[int], got: list[int], axis: Axis, purpose: Purpose) -> torch.Tensor:
    arrived = rows.new_zeros(sum(got), *rows.shape[1:])
    if purpose not in LEFT_OUT:
        dist.all_to_all_single(arrived, rows.contiguous(), got, sent, group=axis.group)
    return arrived


def exchange(rows: torch.Tensor, sent: list[int], got: list[int], axis: Axis, purpose: Purpose) -> torch.Tensor:
    """rows [sum of sent, ...]: the first `sent[0]` for peer 0 and so on -> [sum of got, ...], peer by peer.

    Backward, gradients travel back the same way.
    """
    return _Exchange.apply(rows, sent, got, axis, purpose)


def exchange_counts(counts: torch.Tensor, axis: Axis) -> torch.Tensor:
    """Row i of counts [peers, ...] int64 is for peer i; returns what each has for us, likewise. Goes before a dispatch,
    which cannot be without it."""
    arrived = torch.empty_like(counts)
    dist.all_to_all_single(arrived, counts.contiguous(), group=axis.group)
    return arrived
