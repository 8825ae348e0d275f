"""Triton's datatypes as Python models know them, and tensors from and to raw little-endian bytes.

BF16, which numpy has not, is the bits of its elements, as uint16.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

BF16 = "BF16"
BYTES = "BYTES"
# wire name -> (number of the DataType enum, numpy's type)
_TYPES: dict[str, tuple[int, Any]] = {
    "BOOL": (1, np.bool_),
    "UINT8": (2, np.uint8),
    "UINT16": (3, np.uint16),
    "UINT32": (4, np.uint32),
    "UINT64": (5, np.uint64),
    "INT8": (6, np.int8),
    "INT16": (7, np.int16),
    "INT32": (8, np.int32),
    "INT64": (9, np.int64),
    "FP16": (10, np.float16),
    "FP32": (11, np.float32),
    "FP64": (12, np.float64),
    BYTES: (13, np.object_),
}
_NUMBERS = dict(_TYPES.values())
_WIRE = {np.dtype(kind): name for name, (_, kind) in _TYPES.items()}
_LENGTH = struct.Struct("<I")


def triton_to_numpy_type(data_type: int) -> Any:
    """The numpy type of a number of Triton's DataType; None for one that numpy has not."""
    return _NUMBERS.get(data_type)


def numpy_to_triton_type(data_type: Any) -> int | None:
    name = wire_name(np.dtype(data_type))
    return _TYPES[name][0] if name is not None else None


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """Of "TYPE_FP32". Raises KeyError for one that numpy has not."""
    name = triton_type_string.removeprefix("TYPE_")
    if name == "BOOL":
        return bool
    return _TYPES[BYTES if name == "STRING" else name][1]


def number_of(name: str) -> int:
    return 14 if name == BF16 else _TYPES[name][0]


def wire_name(dtype: np.dtype) -> str | None:
    """ "FP32"; None for a dtype that no tensor has."""
    return BYTES if dtype.kind == "S" else _WIRE.get(dtype)


def array_of(name: str, shape: Sequence[int], raw: bytearray | memoryview) -> np.ndarray:
    """A view of `raw`, which may be written if that may; BYTES are objects."""
    if name == BYTES:
        items = np.empty(len(split := split_bytes(raw)), np.object_)
        items[:] = split
        return items.reshape(shape)
    return np.frombuffer(raw, np.uint16 if name == BF16 else _TYPES[name][1]).reshape(shape)


def raw_of(array: np.ndarray) -> bytes | memoryview:
    """In row-major order; texts are encoded as UTF-8, whatever else is no bytes as its text."""
    if array.dtype.kind in "OS":
        return b"".join(_with_length(item) for item in array.ravel().tolist())
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def split_bytes(raw: bytearray | memoryview | bytes) -> list[bytes]:
    """Elements with their lengths before them. Raises ValueError where they do not fit."""
    found, place, size = [], 0, len(raw)
    while place < size:
        if place + 4 > size:
            raise ValueError("the raw bytes end inside the length of an element")
        start = place + 4
        place = start + _LENGTH.unpack_from(raw, place)[0]
        if place > size:
            raise ValueError("the raw bytes end inside an element")
        found.append(bytes(raw[start:place]))
    return found


def _with_length(item: Any) -> bytes:
    data = item if type(item) is bytes else item.encode() if type(item) is str else _as_bytes(item)
    return _LENGTH.pack(len(data)) + data


def _as_bytes(item: Any) -> bytes:
    return bytes(item) if isinstance(item, bytes | bytearray | memoryview) else str(item).encode()
