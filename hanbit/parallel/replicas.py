"""Data parallelism over whole replicas: gradients are summed while the backward pass still runs.

Gradients live in flat buckets (their `.grad` is a view), in the order in which backward reaches the parameters:
last layer first. A bucket whose gradients of the last micro-batch are all there is sent while earlier layers are
still computed. Buckets start in the same order on every rank. Works with any number of stages in a process.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from hanbit.parallel.collectives import Purpose, on_clock, start_all_reduce
from hanbit.parallel.grid import Axis

BUCKET_BYTES = 25_000_000  # as torch's DistributedDataParallel: large enough for bandwidth, small enough to overlap


class Replicas:
    """Sums the gradients of `parameters` over `axis`. Call `begin` before and `finish` after every backward pass."""

    def __init__(self, parameters: list[nn.Parameter], axis: Axis, micro_batches: int, purpose: Purpose) -> None:
        self.axis = axis
        self.purpose = purpose
        self.micro_batches = micro_batches
        self.buckets = fill_buckets(parameters[::-1])
        self.flat = [_flat_gradients(bucket) for bucket in self.buckets]
        self.arrivals: dict[torch.Tensor, int] = {}
        self.missing: list[int] = []
        self.works: list[dist.Work | None] = []
        for index, bucket in enumerate(self.buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(self._arrival_in(index))

    def begin(self) -> None:
        self.arrivals = {}
        self.missing = [len(bucket) for bucket in self.buckets]
        self.works = []
        for flat in self.flat:
            flat.zero_()

    def finish(self) -> None:
        """Send what no hook has sent (a parameter that was not used), and wait for all."""
        while len(self.works) < len(self.buckets):
            self._send_next()
        with on_clock(self.purpose, *self.flat):  # the rest of them: most were sent while backward ran
            for work in self.works:
                if work is not None:
                    work.wait()

    def _arrival_in(self, bucket: int) -> Callable[[torch.Tensor], None]:
        def arrived(parameter: torch.Tensor) -> None:
            self.arrivals[parameter] = self.arrivals.get(parameter, 0) + 1
            if self.arrivals[parameter] == self.micro_batches:
                self.missing[bucket] -= 1
                while len(self.works) < len(self.buckets) and self.missing[len(self.works)] == 0:
                    self._send_next()

        return arrived

    def _send_next(self) -> None:
        self.works.append(start_all_reduce(self.flat[len(self.works)], self.axis, self.purpose))


def fill_buckets(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """In the order given, each of one type of number and no larger than BUCKET_BYTES, unless by its only parameter."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        needed = parameter.numel() * parameter.element_size()
        if needed > room or buckets[-1][0].dtype != parameter.dtype:
            buckets.append([])
            room = BUCKET_BYTES
        buckets[-1].append(parameter)
        room -= needed
    return buckets


def _flat_gradients(bucket: list[nn.Parameter]) -> torch.Tensor:
    flat = torch.zeros(sum(p.numel() for p in bucket), dtype=bucket[0].dtype, device=bucket[0].device)
    start = 0
    for parameter in bucket:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat
