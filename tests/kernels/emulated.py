"""The kernels of another processor, run by qemu: an object with the functions that tests call of a loaded library.

Its memory is not ours: what a call reads is sent along, what it leaves is written back to where it came from
(emulated.cpp is the other end). So the tests of the kernels run for ARM as they stand, with the same judges.
"""

import ctypes
import shutil
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from hanbit.kernels.blocks import FLOATS, Kind, pack
from hanbit.kernels.build import build
from hanbit.kernels.library import Native
from hanbit.kernels.structs import Kept, Linear, Matrix

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
PROCESSORS = {"neon": "cortex-a53", "neondot": "neoverse-n1"}  # the best set of each
_SYSTEM = "/usr/aarch64-linux-gnu"  # where Debian's compiler keeps that processor's C library
_INTEGER, _FLOAT, _PIECE = range(3)
_LINE, _NAME = 64, 32


def build_for_arm(folder: Path) -> Path:
    """The library, as `python -m hanbit.kernels.build` makes it, and the program that calls it, in `folder`."""
    for command in (COMPILER, EMULATOR):
        if shutil.which(command) is None:
            pytest.skip(f"no {command} here; Debian has it (scripts/system-packages)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", COMPILER)
        build(folder / "native.so")
    source = Path(__file__).with_suffix(".cpp")
    subprocess.run([COMPILER, "-std=c++17", "-O1", "-Wall", "-o", folder / "emulated", source, "-ldl"], check=True)
    return folder


@dataclass
class Piece:
    """`size` bytes of our memory that a call reads or writes; `links`: at which byte the address of another belongs."""

    address: int
    size: int
    links: list[tuple[int, "Piece"]] = field(default_factory=list)

    def bytes(self) -> bytes:
        return ctypes.string_at(self.address, self.size)


class Emulated:
    """Functions as library.py declares them, as far as tests call them."""

    def __init__(self, folder: Path, processor: str) -> None:
        command = [EMULATOR, "-L", _SYSTEM, "-cpu", processor, str(folder / "emulated"), str(folder / "native.so")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._turn = threading.Lock()

    def native(self) -> Native:
        """The kernels that the library takes for this processor."""
        kernels, name = self.call("hanbit_kernels", 0), np.zeros(_NAME, np.uint8)
        self.call("strncpy", _of(name), self.call("hanbit_name", kernels), _NAME - 1)
        return Native(self, kernels, name.tobytes().rstrip(b"\0").decode())  # type: ignore[arg-type]

    def close(self) -> None:
        self._process.communicate()

    def call(self, name: str, *arguments: int | float | Piece) -> int:
        pieces = [argument for argument in arguments if isinstance(argument, Piece)]
        for piece in pieces:  # which grows
            pieces += [other for _, other in piece.links]
        place = {id(piece): index for index, piece in enumerate(pieces)}
        links = [(place[id(piece)], at, place[id(other)]) for piece in pieces for at, other in piece.links]
        words: list[int] = [len(links), *(word for link in links for word in link), len(arguments)]
        for argument in arguments:
            words += _argument(argument, place)
        sent = [piece.bytes() for piece in pieces]
        with self._turn:
            self._write(name.encode().ljust(_NAME, b"\0") + _words(len(pieces)))
            for piece, data in zip(pieces, sent, strict=True):
                self._write(_words(len(data), piece.address % _LINE) + data)
            self._write(_words(*words))
            self._process.stdin.flush()
            result = struct.unpack("<q", self._read(8))[0]
            left = [self._read(piece.size) for piece in pieces]
        for piece, before, after in zip(pieces, sent, left, strict=True):
            if before != after and not piece.links:
                ctypes.memmove(piece.address, after, piece.size)
        return result

    def _write(self, data: bytes) -> None:
        self._process.stdin.write(data)

    def _read(self, size: int) -> bytes:
        data = self._process.stdout.read(size)
        assert len(data) == size, f"the emulated process ended with {self._process.wait()}"
        return data

    def hanbit_linear(self, kernels: int, linear, hidden: int, rows: int, output: int, threads: int) -> None:
        layer: Linear = linear._obj
        links = [
            (Linear.matrices.offset + index * ctypes.sizeof(Matrix), _weight(layer.matrices[index], layer.inputs))
            for index in range(layer.num_matrices)
        ]
        if layer.bias:
            links.append((Linear.bias.offset, Piece(layer.bias, 4 * layer.outputs)))
        struct = Piece(ctypes.addressof(layer), ctypes.sizeof(layer), links)
        read, written = Piece(hidden, 4 * rows * layer.inputs), Piece(output, 4 * rows * layer.outputs)
        self.call("hanbit_linear", kernels, struct, read, rows, written, threads)

    def hanbit_take_rows(self, kernels: int, matrix, inputs: int, indices: int, count: int, output: int) -> None:
        link = (Matrix.weight.offset, _weight(matrix._obj, inputs))
        struct = Piece(ctypes.addressof(matrix._obj), ctypes.sizeof(Matrix), [link])
        self.call(
            "hanbit_take_rows", kernels, struct, inputs, Piece(indices, 8 * count), count,
            Piece(output, 4 * count * inputs),
        )  # fmt: skip

    def hanbit_quantise(self, kernels: int, row: int, inputs: int, output: int) -> None:
        self.call("hanbit_quantise", kernels, Piece(row, 4 * inputs), inputs, Piece(output, inputs // 32 * 48))

    def hanbit_rms_norm(self, kernels: int, row: int, weight: int, epsilon: float, width: int, output: int) -> None:
        read, weights, written = (Piece(address, 4 * width) for address in (row, weight, output))
        self.call("hanbit_rms_norm", kernels, read, weights, epsilon, width, written)

    def hanbit_rotate(self, kernels: int, head: int, cosines: int, sines: int, half: int) -> None:
        angles = Piece(cosines, 4 * half), Piece(sines, 4 * half)
        self.call("hanbit_rotate", kernels, Piece(head, 8 * half), *angles, half)

    def hanbit_swiglu(self, kernels: int, gate: int, up: int, count: int, output: int) -> None:
        read = Piece(gate, 4 * count), Piece(up, 4 * count)
        self.call("hanbit_swiglu", kernels, *read, count, Piece(output, 4 * count))

    def hanbit_keep(self, kernels: int, kept: int, head: int, head_dim: int, into: int) -> None:
        written = Piece(into, _kept_bytes(kept, head_dim))
        self.call("hanbit_keep", kernels, kept, Piece(head, 4 * head_dim), head_dim, written)

    def hanbit_attend(
        self, kernels: int, kept: int, queries: int, query: int, keys: int, values: int, places: int, count: int,
        head_dim: int, scale: float, seen: int,
    ) -> None:  # fmt: skip
        if count == 0:
            return
        where = np.ctypeslib.as_array(ctypes.cast(places, ctypes.POINTER(ctypes.c_int64)), (count,))
        heads = int(where.max()) + _kept_bytes(kept, head_dim)
        self.call(
            "hanbit_attend", kernels, kept, queries, Piece(query, 4 * queries * head_dim), Piece(keys, heads),
            Piece(values, heads), Piece(places, 8 * count), count, head_dim, scale,
            Piece(seen, 4 * queries * (2 + head_dim)),
        )  # fmt: skip

    def hanbit_largest(self, kernels: int, numbers: int, count: int) -> int:
        return self.call("hanbit_largest", kernels, Piece(numbers, 4 * count), count)


def _words(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}q", *words)


def _argument(argument: int | float | Piece, place: dict[int, int]) -> tuple[int, int]:
    if isinstance(argument, Piece):
        return _PIECE, place[id(argument)]
    if isinstance(argument, float):
        return _FLOAT, struct.unpack("<i", struct.pack("<f", argument))[0]
    return _INTEGER, argument


def _of(array: np.ndarray) -> Piece:
    return Piece(array.ctypes.data, array.nbytes)


def _kept_bytes(kept: int, head_dim: int) -> int:
    return head_dim + 4 if kept == Kept.INT8 else 4 * head_dim


def _weight(matrix: Matrix, inputs: int) -> Piece:
    kind = Kind(matrix.kind)
    if kind in FLOATS:
        return Piece(matrix.weight, matrix.outputs * inputs * (4 if kind == Kind.FLOAT32 else 2))
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind.name]]
    return Piece(matrix.weight, len(pack(kind, np.zeros((matrix.outputs, inputs // block * block_bytes), np.uint8))))
