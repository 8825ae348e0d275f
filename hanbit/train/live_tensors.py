"""How many bytes of tensors are alive, op by op, and what they are for at the fullest moment.

A hook on every operation sees each new storage once and hears when it goes, whether it holds numbers or only a shape
(train/dry_run_memory.py). Tensors are counted, not what kernels use inside, nor what an allocator or NCCL keeps.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type

_GROWTH = 1.02  # a fuller moment is looked at again when it is fuller by this much
_BUFFERED = ("_allgather_base_", "_reduce_scatter_base_")  # collectives whose buffers FSDP2 makes for them alone


class Part(StrEnum):
    WEIGHTS = "weights"  # parameters, their copies in the precision of the products, those gathered for use
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"  # moments
    ACTIVATIONS = "activations"  # what backward needs, and what an operation needs for a moment
    COMMUNICATION = "communication"  # buffers of FSDP2's collectives, and those that stages receive into


class LiveTensors(TorchDispatchMode):
    """Counts while it is entered. `gradients`: says what the gradients are at the moment; `part`: of what is new."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Part.ACTIVATIONS
        self.gradients: Callable[[], Iterable[torch.Tensor]] = tuple
        self.total = self.peak = 0
        self._bytes: dict[int, int] = {}
        self._parts: dict[int, Part] = {}
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._looked_at = 0
        self._seen: dict[int, int] = {}  # what was alive when it was looked at
        self._then = dict.fromkeys(Part, 0)

    @contextlib.contextmanager
    def making(self, part: Part) -> Iterator[None]:
        """Storages that are new inside belong to `part`."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def begin(self) -> None:
        """Forget the peak so far."""
        self.peak, self._looked_at = self.total, 0
        self._look()

    def parts(self) -> dict[Part, int]:
        """Bytes at the peak; they sum to it."""
        rest = self.peak - self._looked_at
        return {**self._then, Part.ACTIVATIONS: self._then[Part.ACTIVATIONS] + rest}

    def __enter__(self) -> "LiveTensors":
        self._resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = self._resize(storage, size)
            self._resized(storage)
            return result

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*problem)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # a DTensor: its local tensors come by one by one
        outputs = func(*args, **(kwargs or {}))
        part = self._part_of(func, args, kwargs or {})
        for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if isinstance(output, torch.Tensor):
                self._saw(output.untyped_storage(), part)
        if self.total > self.peak:
            self.peak = self.total
            if self.total > _GROWTH * self._looked_at:
                self._look()
        return outputs

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

    def _saw(self, storage: torch.UntypedStorage, part: Part) -> None:
        key = storage._cdata
        if key in self._bytes:
            return
        self._storages[key] = weakref.ref(storage, lambda _: self._gone(key))
        self._bytes[key], self._parts[key] = storage.nbytes(), part
        self.total += self._bytes[key]

    def _resized(self, storage: torch.UntypedStorage) -> None:
        """FSDP2 alone does this: storages of gathered weights are emptied after use and made whole before it."""
        key = storage._cdata
        if key in self._bytes:
            self.total += storage.nbytes() - self._bytes[key]
            self._bytes[key], self._parts[key] = storage.nbytes(), Part.WEIGHTS

    def _is_of(self, key: int, part: Part) -> None:
        """It turned out what a storage is for, perhaps after it was looked at."""
        if key in self._seen:
            self._then[self._parts[key]] -= self._seen[key]
            self._then[part] += self._seen[key]
        if key in self._parts:
            self._parts[key] = part

    def _gone(self, key: int) -> None:
        self.total -= self._bytes.pop(key)
        self._seen.pop(key, None)  # another storage may get its address
        del self._parts[key], self._storages[key]

    def _look(self) -> None:
        """What is alive now, by part; gradients become such by being put where gradients lie."""
        for gradient in self.gradients():
            self._is_of(gradient.untyped_storage()._cdata, Part.GRADIENTS)
        self._looked_at, self._seen = self.total, dict(self._bytes)
        self._then = dict.fromkeys(Part, 0)
        for key, size in self._bytes.items():
            self._then[self._parts[key]] += size
