"""The header of a GGUF file, believed only where the file's own size allows it.

Every count, length, dim and offset is compared with the bytes that are there before memory is taken; products are
Python integers, which do not overflow. What llama.cpp refuses is refused here too (nested arrays, five dims, two
tensors of one name).
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from hanbit.formats.gguf.cursor import Cursor

Value = int | float | bool | str | list[str] | np.ndarray

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_KEYS, _SMALLEST_KEY_BYTES = 65_536, 8 + 1 + 4 + 1  # length, name, type, value
_MOST_TENSORS, _SMALLEST_TENSOR_BYTES = 65_536, 8 + 1 + 4 + 8 + 4 + 8  # length, name, dims, one dim, type, offset
_LONGEST_NAME_BYTES = 65_535
_LONGEST_TEXT_BYTES = 64 << 20  # of a value: chat templates and licences are texts, too
_MOST_DIMS = 4
_LARGEST_DIM = 2**63 - 1
_LARGEST_ALIGNMENT = 1 << 20
_CODES = {
    GGUFValueType.UINT8: "B", GGUFValueType.INT8: "b", GGUFValueType.UINT16: "H", GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I", GGUFValueType.INT32: "i", GGUFValueType.UINT64: "Q", GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT32: "f", GGUFValueType.FLOAT64: "d",
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A tensor in the file: `shape` as torch has it (rows first), `offset_bytes` from the file's start."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset_bytes: int
    num_bytes: int


@dataclass(frozen=True)
class Header:
    metadata: dict[str, Value]
    tensors: dict[str, Place]


def read_header(buffer: memoryview, path: Path) -> Header:
    """buffer: the whole file. Raises FormatError with the value, the rule and the place."""
    cursor = Cursor(buffer, path)
    num_tensors, num_keys = _opening(cursor)
    metadata = _metadata(cursor, num_keys)
    alignment = _alignment(cursor, metadata)
    described = [_described(cursor, index) for index in range(num_tensors)]
    start = -(-cursor.offset // alignment) * alignment
    places: dict[str, Place] = {}
    for name, type, shape, offset in described:
        if name in places:
            raise cursor.refuse(f"two tensors are called {name!r:.100}")
        places[name] = _placed(cursor, name, type, shape, start, offset, alignment)
    _refuse_overlap(cursor, places)
    return Header(metadata, places)


def _opening(cursor: Cursor) -> tuple[int, int]:
    """(tensors, keys)."""
    cursor.require(24, "a GGUF header")
    magic = bytes(cursor.buffer[:4])
    if magic != MAGIC:
        raise cursor.refuse(f"starts with {magic!r}, a GGUF file with {MAGIC!r}")
    cursor.offset = 4
    version = cursor.number("I", "the version")
    if version not in _VERSIONS:
        swapped = int(version) & 0xFFFF == 0 and version != 0
        reason = "it is big-endian, which is not read" if swapped else "versions 2 and 3 are read"
        raise cursor.refuse(f"is GGUF of version {version:#x}: {reason}")
    num_tensors = cursor.count("Q", "the number of tensors", _MOST_TENSORS)
    num_keys = cursor.count("Q", "the number of keys", _MOST_KEYS)
    cursor.require(num_keys * _SMALLEST_KEY_BYTES + num_tensors * _SMALLEST_TENSOR_BYTES, "what its header announces")
    return num_tensors, num_keys


def _metadata(cursor: Cursor, num_keys: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for index in range(num_keys):
        key = cursor.text(f"key {index}", _LONGEST_NAME_BYTES)
        if key in metadata:
            raise cursor.refuse(f"the key {key!r:.100} is there twice")
        metadata[key] = _value(cursor, key)
    return metadata


def _value(cursor: Cursor, key: str) -> Value:
    what = f"the value of {key!r:.100}"
    kind = _kind(cursor, what)
    if kind != GGUFValueType.ARRAY:
        return _single(cursor, what, kind)
    item = _kind(cursor, what)
    if item == GGUFValueType.ARRAY:
        raise cursor.refuse(f"{what} is an array of arrays, which is not read")
    num_items = cursor.count("Q", f"the length of {what}", len(cursor.buffer))
    if item == GGUFValueType.STRING:
        return cursor.texts(what, num_items, _LONGEST_TEXT_BYTES)
    found = cursor.numbers("B" if item == GGUFValueType.BOOL else _CODES[item], what, num_items)
    return found.astype(bool) if item == GGUFValueType.BOOL else found


def _kind(cursor: Cursor, what: str) -> GGUFValueType:
    number = cursor.number("I", f"the type of {what}")
    try:
        return GGUFValueType(int(number))
    except ValueError:
        raise cursor.refuse(f"{what} is of type {number}, known are 0 to {max(GGUFValueType)}") from None


def _single(cursor: Cursor, what: str, kind: GGUFValueType) -> int | float | bool | str:
    if kind == GGUFValueType.STRING:
        return cursor.text(what, _LONGEST_TEXT_BYTES)
    if kind == GGUFValueType.BOOL:
        return bool(cursor.count("B", what, 1))
    return cursor.number(_CODES[kind], what)


def _alignment(cursor: Cursor, metadata: dict[str, Value]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if (
        not isinstance(alignment, int)
        or not 1 <= alignment <= _LARGEST_ALIGNMENT
        or alignment & (alignment - 1)
        or isinstance(alignment, bool)
    ):
        raise cursor.refuse(
            f"general.alignment={alignment!r:.40} must be a power of two of at most {_LARGEST_ALIGNMENT}"
        )
    return alignment


def _described(cursor: Cursor, index: int) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
    """(name, type, shape, offset from the start of the tensors)."""
    name = cursor.text(f"the name of tensor {index}", _LONGEST_NAME_BYTES)
    what = f"tensor {name!r:.100}"
    num_dims = cursor.count("I", f"the number of dims of {what}", _MOST_DIMS)
    dims = [cursor.count("Q", f"a dim of {what}", _LARGEST_DIM) for _ in range(num_dims)]
    if not dims or 0 in dims:
        raise cursor.refuse(f"{what} has dims {dims}: it is empty")
    number = cursor.number("I", f"the type of {what}")
    try:
        type = GGMLQuantizationType(int(number))
    except ValueError:
        raise cursor.refuse(f"{what} is of type {number}, which this hanbit does not know") from None
    return name, type, tuple(reversed(dims)), cursor.count("Q", f"the offset of {what}", len(cursor.buffer))


def _placed(
    cursor: Cursor,
    name: str,
    type: GGMLQuantizationType,
    shape: tuple[int, ...],
    start: int,
    offset: int,
    alignment: int,
) -> Place:
    block_size, block_bytes = GGML_QUANT_SIZES[type]
    what = f"tensor {name!r:.100} of shape {list(shape)}, {type.name},"
    if shape[-1] % block_size:
        raise cursor.refuse(f"{what} has rows that are no multiple of its blocks of {block_size}")
    num_bytes = math.prod(shape) // block_size * block_bytes
    if offset % alignment:
        raise cursor.refuse(f"{what} lies at {offset}, which is no multiple of the alignment {alignment}")
    if start + offset + num_bytes > len(cursor.buffer):
        raise cursor.refuse(
            f"{what} needs {num_bytes} bytes at byte {start + offset}, the file has {len(cursor.buffer)}. "
            "It is truncated or lies; copy it again"
        )
    return Place(name, type, shape, start + offset, num_bytes)


def _refuse_overlap(cursor: Cursor, places: dict[str, Place]) -> None:
    ordered = sorted(places.values(), key=lambda place: place.offset_bytes)
    for first, second in itertools.pairwise(ordered):
        if first.offset_bytes + first.num_bytes > second.offset_bytes:
            raise cursor.refuse(f"tensors {first.name!r:.100} and {second.name!r:.100} lie over each other")
