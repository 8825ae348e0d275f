"""What FSDP2 sends by itself, on the clock of the step.

On a CPU it is sent while the process waits, and counts as communication like all else. A GPU sends beside its passes,
on streams of their own: there a trace shows it, and what a pass waits for it stays with the pass.
"""

import contextlib
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from hanbit.parallel.clock import CLOCK
from hanbit.parallel.collectives import Purpose, on_clock


def put_on_clock(module: FSDPModule) -> None:
    """Its gathers of weights and its reductions of gradients, which stay as they are."""
    module.set_custom_all_gather(_Gather())
    module.set_custom_reduce_scatter(_Reduce())


class _Gather(DefaultAllGather):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> dist.Work | None:
        with _seen(Purpose.SHARD_GATHER, input_tensor):
            return super().__call__(output_tensor, input_tensor, group, async_op)


class _Reduce(DefaultReduceScatter):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> dist.Work:
        with _seen(Purpose.SHARD_REDUCE, input_tensor):
            return super().__call__(output_tensor, input_tensor, group, op, async_op)


def _seen(purpose: Purpose, sent: torch.Tensor) -> contextlib.AbstractContextManager[None]:
    if sent.is_cuda:
        return CLOCK.beside(purpose, bytes=sent.nbytes)
    return on_clock(purpose, sent)
