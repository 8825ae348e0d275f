"""Every collective of a training step that is ours, each with its purpose.

All of them pass through here, so that one place names them, and so that a proof can leave out a single one and
show that the result becomes wrong (`hanbit bench exactness`). What FSDP2 and the pipeline schedule send
themselves is listed too; the proof leaves those out where they are made.

`enter` and `leave` are the two halves of a tensor-parallel region (Shoeybi et al., Megatron-LM, arXiv 1909.08053,
there called f and g). With the sequence split between regions (Korthikanti et al., arXiv 2205.05198, g and g bar) the
same bytes travel, as a gather and a scatter instead of one all-reduce.
"""

import contextlib
from enum import StrEnum
from typing import Any

import torch
import torch.distributed as dist

from hanbit.parallel.clock import CLOCK, Phase
from hanbit.parallel.grid import Axis


class Purpose(StrEnum):
    REGION_ENTER = "tensor.region_enter"  # backward: gradients of a region's input are summed
    ROW_LEAVE = "tensor.row_leave"  # forward: partial outputs of a ROW layer are summed
    EMBEDDING_LEAVE = "tensor.embedding_leave"  # forward: each rank embeds only its own token ids
    HEAD_ENTER = "tensor.head_enter"  # backward: gradients of the head's input are summed
    LOSS_MAXIMUM = "tensor.loss_maximum"  # the largest logit over the whole vocabulary
    LOSS_DENOMINATOR = "tensor.loss_denominator"  # the sum of exponentials over the whole vocabulary
    LOSS_TARGET = "tensor.loss_target"  # the target's logit, which one rank has
    SHARED_GRADIENT = "tensor.shared_gradient"  # gradients of whole weights used on a part of the heads or the sequence
    REGION_GATHER = "sequence.region_gather"  # forward: a region sees the whole sequence
    REGION_SCATTER = "sequence.region_scatter"  # backward: its input's gradients are summed, each rank keeps its part
    ROW_SCATTER = "sequence.row_scatter"  # forward: partial outputs of a ROW layer are summed, each rank keeps its part
    ROW_GATHER = "sequence.row_gather"  # backward: a ROW layer needs the gradient of the whole sequence
    EMBEDDING_SCATTER = "sequence.embedding_scatter"  # forward: as ROW_SCATTER, of the embedding
    EMBEDDING_GATHER = "sequence.embedding_gather"  # backward: as ROW_GATHER, of the embedding
    HEAD_GATHER = "sequence.head_gather"  # forward: each rank's token ids meet the whole sequence in the loss
    HEAD_SCATTER = "sequence.head_scatter"  # backward: as REGION_SCATTER, of the head
    CONTEXT_GATHER = "context.gather"  # forward: keys and values of all parts of the sequence
    CONTEXT_SCATTER = "context.scatter"  # backward: their gradients, from the queries of all parts, are summed
    EXPERT_DISPATCH = "expert.dispatch"  # rows travel to the experts that they go through
    EXPERT_COMBINE = "expert.combine"  # the experts' outputs travel back
    EXPERT_GRADIENT = "expert.replica_gradient"  # gradients of experts are summed over those who hold the same ones
    REPLICA_GRADIENT = "data.replica_gradient"  # gradients of whole replicas are summed
    SHARD_REDUCE = "data.shard_reduce"  # FSDP2: gradients are summed and scattered
    SHARD_GATHER = "data.shard_gather"  # FSDP2: parameters are gathered before use
    UPDATE_GATHER = "data.update_gather"  # rows of weights that one replica has updated go to the others
    STAGE_FORWARD = "pipeline.stage_forward"  # hidden states travel to the next stage
    STAGE_BACKWARD = "pipeline.stage_backward"  # their gradients travel back
    TIED_GRADIENT = "pipeline.tied_gradient"  # gradients of the embedding and of the output that shares it are summed
    GRADIENT_NORM = "world.gradient_norm"  # the squares of all gradients are summed, for clipping
    LOSS_REPORT = "world.loss_report"  # the loss of the step, for people


LEFT_OUT: set[Purpose] = set()
"""Purposes whose collective does nothing. Always empty but in a proof that each of them is needed."""


def on_clock(purpose: Purpose, *sent: torch.Tensor) -> contextlib.AbstractContextManager[None]:
    """Communication of the step, with the bytes of what this process gives; not in a graph, which it would break."""
    if torch.compiler.is_compiling():
        return contextlib.nullcontext()
    return CLOCK.phase(Phase.COMMUNICATION, purpose, bytes=sum(tensor.nbytes for tensor in sent))


def all_reduce(tensor: torch.Tensor, axis: Axis, purpose: Purpose, operation: str = "sum") -> torch.Tensor:
    """The sum (or "max") of `tensor` over the axis; a new tensor, but the same on an axis of one. Traceable."""
    if axis.size == 1 or purpose in LEFT_OUT:
        return tensor
    with on_clock(purpose, tensor):
        return _arrived(_FUNCTIONAL.all_reduce, tensor, operation, _name_of(axis))


_FUNCTIONAL = torch.ops._c10d_functional


def _arrived(collective: Any, tensor: torch.Tensor, *arguments: Any) -> torch.Tensor:
    """What one of torch's functional collectives gives, once it is there. No gradient flows through it.

    Below autograd, where nothing is to be recorded: torch registers these operations' autograd in Python, which takes
    three times as long as a small sum itself (0.9 ms of a core for a call instead of 0.24). A graph holds neither.
    """
    if torch.compiler.is_compiling():
        return _FUNCTIONAL.wait_tensor(collective(tensor, *arguments))
    assert not (torch.is_grad_enabled() and tensor.requires_grad), "its gradient would be lost: use enter or leave"
    with torch._C._AutoDispatchBelowAutograd():
        return _FUNCTIONAL.wait_tensor(collective(tensor, *arguments))


def _name_of(axis: Axis) -> str:
    assert axis.group is not None
    return axis.group.group_name


def start_all_reduce(tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> "dist.Work | None":
    """Begin summing `tensor` in place over the axis; the returned work's `wait()` ends it. Not traceable."""
    if purpose in LEFT_OUT:
        return None
    return dist.all_reduce(tensor, group=axis.group, async_op=True)


def sum_in_place(tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> None:
    """The sum of `tensor` over the axis. Not traceable."""
    if purpose not in LEFT_OUT:
        with on_clock(purpose, tensor):
            dist.all_reduce(tensor, group=axis.group)


def sum_over_world(tensor: torch.Tensor, purpose: Purpose) -> torch.Tensor:
    """The sum of `tensor` over all processes, in place."""
    if dist.is_initialized() and purpose not in LEFT_OUT:
        with on_clock(purpose, tensor):
            dist.all_reduce(tensor)
    return tensor


SPLIT = {
    Purpose.REGION_ENTER: (Purpose.REGION_GATHER, Purpose.REGION_SCATTER),
    Purpose.ROW_LEAVE: (Purpose.ROW_SCATTER, Purpose.ROW_GATHER),
    Purpose.EMBEDDING_LEAVE: (Purpose.EMBEDDING_SCATTER, Purpose.EMBEDDING_GATHER),
    Purpose.HEAD_ENTER: (Purpose.HEAD_GATHER, Purpose.HEAD_SCATTER),
}
"""What takes the place of one all-reduce where the axis splits the sequence: a collective forward, one backward."""

SEQUENCE_DIM = (
    1  # of tokens [sequences, time], hidden [sequences, time, hidden], keys [sequences, time, heads, head_dim]
)


def gather_parts(tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> torch.Tensor:
    """All ranks' parts of the sequence, in the order of ranks; a new tensor. Traceable."""
    if purpose in LEFT_OUT:
        return torch.cat([tensor] * axis.size, SEQUENCE_DIM)
    part = tensor.contiguous()
    with on_clock(purpose, part):
        gathered = _arrived(_FUNCTIONAL.all_gather_into_tensor, part, axis.size, _name_of(axis))
    if len(part) == 1:  # they lie one after the other already
        return gathered.view(1, -1, *part.shape[2:])
    return torch.cat(gathered.chunk(axis.size), SEQUENCE_DIM)


def sum_to_part(tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> torch.Tensor:
    """The sum over the axis, of which each rank keeps its part of the sequence; a new tensor. Traceable."""
    if purpose in LEFT_OUT:
        return tensor.chunk(axis.size, SEQUENCE_DIM)[axis.rank].clone()
    whole = torch.cat(tensor.chunk(axis.size, SEQUENCE_DIM))  # rank's part after rank's part
    with on_clock(purpose, whole):
        return _arrived(_FUNCTIONAL.reduce_scatter_tensor, whole, "sum", axis.size, _name_of(axis))


def gather_flat(part: torch.Tensor, axis: Axis, purpose: Purpose) -> torch.Tensor:
    """part [count], of the same length everywhere -> [ranks, count]; a new tensor. Not traceable."""
    if purpose in LEFT_OUT:
        return part.repeat(axis.size, 1)
    with CLOCK.phase(Phase.COMMUNICATION, purpose):
        gathered = _arrived(_FUNCTIONAL.all_gather_into_tensor, part, axis.size, _name_of(axis))
    return gathered.view(axis.size, -1)


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


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, axis: Axis, purposes: tuple[Purpose, Purpose]) -> torch.Tensor:
        context.axis, context.purpose = axis, purposes[1]
        return gather_parts(tensor, axis, purposes[0])

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return sum_to_part(gradients[0], context.axis, context.purpose), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor, axis: Axis, purposes: tuple[Purpose, Purpose]) -> torch.Tensor:
        context.axis, context.purpose = axis, purposes[1]
        return sum_to_part(tensor, axis, purposes[0])

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return gather_parts(gradients[0], context.axis, context.purpose), None, None


def gather(tensor: torch.Tensor, axis: Axis, forward: Purpose, backward: Purpose) -> torch.Tensor:
    """All parts of the sequence [sequences, time / size, ...]; backward sums, and each rank keeps its part."""
    return _Gather.apply(tensor, axis, (forward, backward))


def enter(tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> torch.Tensor:
    """Into a region where each rank computes a part: forward nothing, backward the sum over the axis.

    Where the axis splits the sequence, forward the whole of it is gathered, backward the sum is scattered.
    """
    if axis.splits_sequence:
        return gather(tensor, axis, *SPLIT[purpose])
    return tensor if axis.size == 1 else _Enter.apply(tensor, axis, purpose)


def leave(tensor: torch.Tensor, axis: Axis, purpose: Purpose) -> torch.Tensor:
    """Out of such a region: forward the sum over the axis, backward nothing.

    Where the axis splits the sequence, forward the sum is scattered, backward the whole gradient is gathered.
    """
    if axis.splits_sequence:
        return _Scatter.apply(tensor, axis, SPLIT[purpose])
    return tensor if axis.size == 1 else _Leave.apply(tensor, axis, purpose)


def part_of_sequence(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """Our part along the last dim of token ids or positions [..., time], where the axis splits the sequence."""
    return tensor.chunk(axis.size, -1)[axis.rank] if axis.splits_sequence else tensor


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
        with on_clock(purpose, rows):
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
    with on_clock(Purpose.EXPERT_DISPATCH, counts):
        dist.all_to_all_single(arrived, counts.contiguous(), group=axis.group)
    return arrived
