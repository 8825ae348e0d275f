"""One process plays any rank of any grid: collectives answer at once with nothing, tensors have shapes and no numbers.

PyTorch's fake process group stands in for the others, FakeTensorMode for the memory; what runs in between is the real
code of a step, so that what it would hold can be counted on a laptop (train/dry_run_memory.py).
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch._subclasses import FakeTensorMode
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import schedules
from torch.distributed.pipelining.stage import InferenceMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from hanbit.models.layers.experts import Experts
from hanbit.parallel import receiving
from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.experts import ParallelExperts
from hanbit.parallel.pieces import local_gradient

Context = Callable[[], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def playing(rank: int, size: int, making_room: Context = contextlib.nullcontext) -> Iterator[None]:
    """Be `rank` of `size` processes that nobody started. `making_room`: entered while a stage makes room to
    receive into."""
    assert not dist.is_initialized(), "a process that has joined others cannot play one of them"
    if size > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        with _stages_agreed(making_room), _experts_used_evenly():
            yield
    finally:
        if size > 1:
            dist.destroy_process_group()


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Inside, new tensors have shapes and no memory; those on the meta device from before may take part."""
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        # FSDP2 asks whether an offloaded weight still lies where it did, which of a shape means nothing.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield


def on_device(model: ParallelModel, device: torch.device) -> ParallelModel:
    """A model that was cut on the meta device, with room for its numbers; its parameters' names stay."""
    before = [parameter for stage in model.stages for parameter in stage.parameters()]
    for stage in model.stages:
        stage.to_empty(device=device)
        cast(Any, stage.model).tie()
    after = [parameter for stage in model.stages for parameter in stage.parameters()]
    new = {id(old): parameter for old, parameter in zip(before, after, strict=True)}
    parameters, twins = ({name: new[id(one)] for name, one in held.items()} for held in (model.parameters, model.twins))
    return replace(model, parameters=parameters, twins=twins, grid=replace(model.grid, device=device))


def held_gradients(model: ParallelModel) -> Iterator[torch.Tensor]:
    """What this process holds of gradients now: its own, and those that FSDP2 has not yet summed and scattered."""
    for parameter in model.learning:
        gradient = local_gradient(parameter)
        if gradient is not None:
            yield gradient
    for module in (module for stage in model.stages for module in stage.modules()):
        if isinstance(module, FSDPModule):
            yield from _whole_gradients(module)


def _whole_gradients(module: FSDPModule) -> Iterator[torch.Tensor]:
    """FSDP2 has no public name for them."""
    state: Any = cast(Any, module)._get_fsdp_state()
    groups = state._fsdp_param_groups if hasattr(state, "_fsdp_param_groups") else [state._fsdp_param_group]
    for group in filter(None, groups):
        for parameter in group.fsdp_params:
            whole = getattr(parameter, "_unsharded_param", None)
            found = (parameter.unsharded_accumulated_grad, None if whole is None else whole.grad)
            yield from (gradient for gradient in found if gradient is not None)


@contextlib.contextmanager
def _stages_agreed(making_room: Context) -> Iterator[None]:
    """Stages first vote on whether all were told their shapes; here nobody answers, and ours always are told."""
    module = cast(Any, schedules)
    schedule = module._PipelineSchedule
    vote, send, make_room = schedule._warmup_p2p, module._batch_p2p, receiving.make_room

    def agreed(self: Any, stages: list[Any], *rest: Any) -> None:
        for stage in stages:
            stage._inference_mode = InferenceMode.STATIC

    def marked(*arguments: Any) -> None:
        with making_room():
            make_room(*arguments)

    def sent(operations: list[Any], desc: str | None = None) -> list[Any]:
        holding = [_Sent([operation.tensor for operation in operations])] if operations else []
        return [*holding, *send(operations, desc)]

    schedule._warmup_p2p, module._batch_p2p, cast(Any, receiving).make_room = agreed, sent, marked
    try:
        yield
    finally:
        schedule._warmup_p2p, module._batch_p2p, cast(Any, receiving).make_room = vote, send, make_room


@dataclass
class _Sent:
    """Holds what is on its way, as a real work does until it is forgotten: with some schedules at the step's end."""

    tensors: list[torch.Tensor]

    def wait(self) -> None:
        """It has arrived."""


@contextlib.contextmanager
def _experts_used_evenly() -> Iterator[None]:
    """Which token goes to which expert is a matter of numbers; here all experts get as many as any other, as the
    load-balancing loss would have it, and peers send what we send."""
    counts, traffic = Experts.counts, ParallelExperts.traffic

    def even_counts(self: Experts, experts: torch.Tensor) -> list[int]:
        return _evenly(len(experts), len(self.gate))

    def even_traffic(self: ParallelExperts, experts: torch.Tensor) -> tuple[list[list[int]], list[list[int]]]:
        size, here = self.expert.size, len(self.gate)
        every = _evenly(len(experts), size * here)
        sent = [every[peer * here : (peer + 1) * here] for peer in range(size)]
        return sent, [sent[self.expert.rank]] * size

    patched: Any = Experts, ParallelExperts
    patched[0].counts, patched[1].traffic = even_counts, even_traffic
    try:
        yield
    finally:
        patched[0].counts, patched[1].traffic = counts, traffic


def _evenly(rows: int, parts: int) -> list[int]:
    share, rest = divmod(rows, parts)
    return [share + (part < rest) for part in range(parts)]
