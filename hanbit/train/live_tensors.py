"""How many bytes of tensors are alive, op by op, and what they are for at the fullest moment.

A hook on every operation sees each new storage once and hears when it goes, whether it holds numbers or only a shape
(train/dry_run_memory.py). Tensors are counted, not what kernels use inside, nor what an allocator or NCCL keeps.

With `parallel.offload` there are two memories, the device's and the host's, also where both are one, as on a CPU: what
is made `on_host` lies there, what is computed from it too, and FSDP2's moves make copies in the other memory.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type

_GROWTH = 1.02  # a fuller moment is looked at again when it is fuller by this much
_WHERE = torch.ops.prim.device.default
_BUFFERED = ("_allgather_base_", "_reduce_scatter_base_")  # collectives whose buffers FSDP2 makes for them alone


class Part(StrEnum):
    WEIGHTS = "weights"  # parameters, their copies in the precision of the products, those gathered for use
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"  # moments
    ACTIVATIONS = "activations"  # what backward needs, and what an operation needs for a moment
    COMMUNICATION = "communication"  # buffers of FSDP2's collectives, and those that stages receive into


class _Memory:
    """Bytes alive in one memory, and what they were for when there were most."""

    def __init__(self) -> None:
        self.total = self.peak = 0
        self.looked_at = 0
        self.seen: dict[int, int] = {}  # what was alive when it was looked at
        self.then = dict.fromkeys(Part, 0)

    def parts(self) -> dict[Part, int]:
        """Bytes at the peak; they sum to it."""
        rest = self.peak - self.looked_at
        return {**self.then, Part.ACTIVATIONS: self.then[Part.ACTIVATIONS] + rest}


class LiveTensors(TorchDispatchMode):
    """Counts while it is entered. `gradients`: says what the gradients are at the moment; `part`: of what is new.

    is_offloaded: FSDP2 moves what is sharded between the two memories.
    """

    def __init__(self, is_offloaded: bool = False) -> None:
        super().__init__()
        self.part = Part.ACTIVATIONS
        self.gradients: Callable[[], Iterable[torch.Tensor]] = tuple
        self.device, self.host = _Memory(), _Memory()
        self._target: _Memory | None = None  # of what is new; None: where its sources lie, else on the device
        self._moves: Any = _moves(self) if is_offloaded else contextlib.nullcontext()
        self._bytes: dict[int, int] = {}
        self._parts: dict[int, Part] = {}
        self._memories: dict[int, _Memory] = {}
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @contextlib.contextmanager
    def making(self, part: Part, on_host: bool = False) -> Iterator[None]:
        """Storages that are new inside belong to `part`."""
        before, self.part = self.part, part
        try:
            with self.moving(to_host=True) if on_host else contextlib.nullcontext():
                yield
        finally:
            self.part = before

    def begin(self) -> None:
        """Forget the peaks so far."""
        for memory in (self.device, self.host):
            memory.peak, memory.looked_at = memory.total, 0
            self._look(memory)

    @contextlib.contextmanager
    def moving(self, to_host: bool) -> Iterator[None]:
        """What is new inside lies in that memory, whatever it is made from."""
        before, self._target = self._target, self.host if to_host else self.device
        try:
            yield
        finally:
            self._target = before

    def is_buffer(self, tensor: torch.Tensor) -> bool:
        return self._parts.get(tensor.untyped_storage()._cdata) is Part.COMMUNICATION

    def is_on_host(self, tensor: torch.Tensor) -> bool:
        return self._memories.get(tensor.untyped_storage()._cdata) is self.host

    def __enter__(self) -> "LiveTensors":
        self._resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = self._resize(storage, size)
            self._resized(storage)
            return result

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign, assignment]
        self._moves.__enter__()
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*problem)
        self._moves.__exit__(*problem)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _WHERE:  # two of three calls without numbers: asked before each operation
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args)
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # a DTensor: its local tensors come by one by one
        outputs = func(*args, **(kwargs or {}))
        if func is torch.ops._c10d_functional.wait_tensor.default:
            outputs = args[0]  # as real processes get; without numbers torch makes another one
        part = self._part_of(func, args, kwargs or {})
        place = self._place_of(args)
        for output in _tensors((outputs,)):
            if not output.is_meta:  # has no memory anywhere
                self._saw(output.untyped_storage(), part, place)
        for memory in (self.device, self.host):
            if memory.total > memory.peak:
                memory.peak = memory.total
                if memory.total > _GROWTH * memory.looked_at:
                    self._look(memory)
        return outputs

    def _place_of(self, args: Any) -> _Memory:
        if self._target is None and self.host.total and any(map(self.is_on_host, _tensors(args))):
            return self.host
        return self._target or self.device

    def _part_of(self, func: Any, args: Any, kwargs: Any) -> Part:
        """A copy of weights in another precision is of weights, and so is what FSDP2 copies gathered ones into."""
        if func is torch.ops.aten._to_copy.default:
            source = self._parts.get(args[0].untyped_storage()._cdata)
            return Part.WEIGHTS if source is Part.WEIGHTS else self.part
        if func.namespace == "fsdp" and func.overloadpacket.__name__ == "split_with_sizes_copy":
            for gathered in kwargs["out"]:
                self._is_of(gathered.untyped_storage()._cdata, Part.WEIGHTS)
        if func.namespace == "c10d" and func.overloadpacket.__name__ in _BUFFERED:
            for buffer in args[:2]:
                self._is_of(buffer.untyped_storage()._cdata, Part.COMMUNICATION)
        return self.part

    def _saw(self, storage: torch.UntypedStorage, part: Part, memory: _Memory) -> None:
        key = storage._cdata
        if key in self._bytes:
            return
        self._storages[key] = weakref.ref(storage, lambda _: self._gone(key))
        self._bytes[key], self._parts[key], self._memories[key] = storage.nbytes(), part, memory
        memory.total += self._bytes[key]

    def _resized(self, storage: torch.UntypedStorage) -> None:
        """FSDP2 alone does this: storages of gathered weights are emptied after use and made whole before it."""
        key = storage._cdata
        if key in self._bytes:
            self._memories[key].total += storage.nbytes() - self._bytes[key]
            self._bytes[key], self._parts[key] = storage.nbytes(), Part.WEIGHTS

    def _is_of(self, key: int, part: Part) -> None:
        """It turned out what a storage is for, perhaps after it was looked at."""
        if key not in self._parts:
            return
        memory = self._memories[key]
        if key in memory.seen:
            memory.then[self._parts[key]] -= memory.seen[key]
            memory.then[part] += memory.seen[key]
        self._parts[key] = part

    def _gone(self, key: int) -> None:
        memory = self._memories.pop(key)
        memory.total -= self._bytes.pop(key)
        memory.seen.pop(key, None)  # another storage may get its address
        del self._parts[key], self._storages[key]

    def _look(self, memory: _Memory) -> None:
        """What is alive in it now, by part; gradients become such by being put where gradients lie."""
        for gradient in self.gradients():
            self._is_of(gradient.untyped_storage()._cdata, Part.GRADIENTS)
        memory.looked_at = memory.total
        memory.seen = {key: size for key, size in self._bytes.items() if self._memories[key] is memory}
        memory.then = dict.fromkeys(Part, 0)
        for key, size in memory.seen.items():
            memory.then[self._parts[key]] += size


@contextlib.contextmanager
def _moves(live: LiveTensors) -> Iterator[None]:
    """FSDP2's `tensor.to(device, non_blocking=...)`: between memories of which a CPU has one, made a copy here."""
    tensor_class: Any = torch.Tensor
    original = tensor_class.to

    def to(tensor: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        is_leaving = live.is_on_host(tensor)  # a weight that will be gathered
        is_moved = is_leaving or live.is_buffer(tensor)  # or a gradient that was scattered; not a batch that was read
        if "non_blocking" not in named or not is_moved:
            return original(tensor, *arguments, **named)
        part = Part.COMMUNICATION if is_leaving else Part.GRADIENTS
        with live.making(part), live.moving(to_host=not is_leaving):
            return tensor.clone()

    tensor_class.to = to
    try:
        yield
    finally:
        del tensor_class.to  # what it inherits shows again


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Those among values, and in their lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
