"""A stage of a pipeline that has room for what it receives only while it is needed.

torch's stage makes a buffer for each micro-batch of a step, in both directions, and keeps them all: 25.8 GB of a middle
stage of GPT 175B. Here room is made when a message is asked for. After its pass the stage lets go of it, and
whoever still needs it holds it: what backward saved, recompute's input, the weights' half of a zero bubble. So it lives
as long as it is used, whatever the schedule, and memory follows from the micro-batches that are on their way.

Of a loss only the number stays: behind its graph torch kept what the last stage had received and that one's gradient,
12.8 GB of GPT 175B.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.pipelining import PipelineStage


class ReceivingStage(PipelineStage):
    """Must be told the shapes of what travels, as `_pipeline_stage` does: a trial run would find no room."""

    def _prepare_forward_infra(self, *arguments: Any, **named: Any) -> Any:
        with self._making_none():
            return super()._prepare_forward_infra(*arguments, **named)

    def _prepare_backward_infra(self, *arguments: Any, **named: Any) -> Any:
        with self._making_none():
            return super()._prepare_backward_infra(*arguments, **named)

    @contextlib.contextmanager
    def _making_none(self) -> Iterator[None]:
        """Buffers on the meta device say what to make, and take no memory."""
        device, self.device = self.device, torch.device("meta")
        try:
            yield
        finally:
            self.device = device

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> Any:
        make_room(self.args_recv_info[fwd_chunk_id], self.device)
        return super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> Any:
        if self.has_backward and not self.is_last:
            make_room(self.grad_recv_info[bwd_chunk_id], self.device)
        return super().get_bwd_recv_ops(bwd_chunk_id)

    def forward_one_chunk(self, fwd_chunk_id: int, *arguments: Any, **named: Any) -> Any:
        output = super().forward_one_chunk(fwd_chunk_id, *arguments, **named)
        _let_go(self.args_recv_info[fwd_chunk_id])
        if not self.has_backward:  # nothing will ask for the inputs again
            sent, _ = self.fwd_cache[fwd_chunk_id]
            self.fwd_cache[fwd_chunk_id] = (sent, [])
        return output

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: torch.Tensor | None = None, *arguments: Any, **named: Any
    ) -> None:
        super().backward_one_chunk(bwd_chunk_id, loss, *arguments, **named)
        if self.has_backward and not self.is_last:
            _let_go(self.grad_recv_info[bwd_chunk_id])
        if loss is not None:
            loss.detach_()


def make_room(received: tuple[Any, ...], device: torch.device) -> None:
    """For one micro-batch; received: torch's `_RecvInfo`, one for each tensor."""
    for one in received:
        if one.buffer is not None:
            one.buffer = torch.empty_like(one.buffer, device=device)


def _let_go(received: tuple[Any, ...]) -> None:
    """A shape stays behind. Within a V the buffer is the neighbour's own tensor, of the same shape."""
    for one in received:
        if one.buffer is not None:
            one.buffer = torch.empty_like(one.buffer, device="meta", requires_grad=False)
