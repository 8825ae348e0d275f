"""Safetensors files written tensor by tensor, hashed and brought to the disk meanwhile by threads beside.

The library's own writer wants every tensor of a file in memory, and its file is then read once more for the manifest:
SHA-256 of a model takes longer than making its numbers. The bytes are the library's
(tests/checkpoint/test_weight_file.py).
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

import torch

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_READ_BYTES = 1 << 20
_METADATA = {"__metadata__": {"format": "pt"}}

Span = tuple[int, int]  # first byte, and the one behind the last


class WeightFiles:
    """The weight files of one folder. A context: leaving it waits for the threads, by an error without their work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="hanbit-weights")
        self._digests: dict[str, Future[str]] = {}
        self._flushed: list[Future[None]] = []

    def __enter__(self) -> "WeightFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, place: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)

    def write(
        self,
        name: str,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        tensors: Iterable[tuple[str, torch.Tensor]],
    ) -> None:
        """A new file of all `shapes`; `tensors` gives each once, contiguous, of that shape and dtype, on the CPU.

        In any order; the digest is ready soonest where they come sorted by name, as they lie in the file.
        """
        header, spans = _laid_out(shapes, dtype)
        path, written = self.folder / name, _Written(len(header))
        with open(path, "xb", buffering=0) as file:
            end = max(end for _, end in spans.values())
            self._digests[name] = self._pool.submit(_digest, path, written.known, end)
            try:
                _write_all(file.fileno(), memoryview(header), 0)
                for tensor_name, tensor in tensors:
                    assert (tuple(tensor.shape), tensor.dtype) == (shapes[tensor_name], dtype)
                    _write_all(file.fileno(), _bytes_of(tensor), spans[tensor_name][0])
                    written.add(spans[tensor_name])
            finally:
                written.known.put(None)
            assert written.until == end
            self._flushed.append(self._pool.submit(_flush, os.dup(file.fileno())))

    def digests(self) -> dict[str, str]:
        """File name -> SHA-256, once all of them lie on the disk. Raises OSError if it refused them."""
        for flushed in self._flushed:
            flushed.result()
        return {name: digest.result() for name, digest in self._digests.items()}


class _Written:
    """`until`: bytes of a file before the first that is missing; every new such number is put into `known`."""

    def __init__(self, until: int) -> None:
        self.until = until
        self.known: SimpleQueue[int | None] = SimpleQueue()
        self._later: dict[int, int] = {}

    def add(self, span: Span) -> None:
        self._later[span[0]] = span[1]
        while self.until in self._later:
            self.until = self._later.pop(self.until)
        self.known.put(self.until)


def _laid_out(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> tuple[bytes, dict[str, Span]]:
    """The file's opening, and where each tensor lies: sorted by name, as the library has those of one dtype."""
    described, ends, offset = {}, {}, 0
    for name in sorted(shapes, key=str.encode):
        end = offset + math.prod(shapes[name]) * dtype.itemsize
        described[name] = {"dtype": _DTYPES[dtype], "shape": list(shapes[name]), "data_offsets": [offset, end]}
        ends[name], offset = (offset, end), end
    text = json.dumps({**_METADATA, **described}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # what follows is aligned
    opening = len(text).to_bytes(8, "little") + text
    return opening, {name: (len(opening) + start, len(opening) + end) for name, (start, end) in ends.items()}


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _write_all(handle: int, content: memoryview, offset: int) -> None:
    """One call takes two gigabytes at most, and fewer on a disk that is nearly full."""
    while len(content):
        num_bytes = os.pwrite(handle, content, offset)
        content, offset = content[num_bytes:], offset + num_bytes


def _digest(path: Path, known: "SimpleQueue[int | None]", end: int) -> str:
    """Of a file that grows: as far as is known to be written, until `end`, or until None says that no more comes."""
    found, position = hashlib.sha256(), 0
    piece = memoryview(bytearray(_READ_BYTES))
    with open(path, "rb", buffering=0) as file:
        while position < end:
            until = known.get()
            if until is None:
                raise OSError(f"{path} was not written to its end")
            while position < until:
                num_bytes = file.readinto(piece[: until - position])
                if not num_bytes:
                    raise OSError(f"{path} has become shorter")
                found.update(piece[:num_bytes])
                position += num_bytes
    return found.hexdigest()


def _flush(handle: int) -> None:
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
