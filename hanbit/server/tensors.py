"""A named tensor as it travels: the datatypes of the v2 protocol, from and to raw little-endian bytes and JSON.

BYTES elements are `bytes` in an object array; on the wire each is its length (4 bytes) and its content. BF16 is float32
in memory. Sizes are checked before anything is allocated. Raises RequestError("invalid").
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanbit.server.errors import RequestError, invalid

_NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": np.float32,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
DATATYPES = tuple(_NUMPY)
# those whose bytes are their elements
_PLAIN = {
    name: np.dtype(kind).newbyteorder("<") for name, kind in _NUMPY.items() if name not in ("BOOL", "BF16", "BYTES")
}
Raw = bytes | memoryview
_SMALL_BYTES = 64 * 1024
_MOST_DIMS = 16
_LARGEST_DIM = 2**31 - 1


@dataclass(frozen=True, init=False)
class Tensor:
    """`data` has the shape `shape` and the numpy dtype that stands for `datatype` (`dtype_of`)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: np.ndarray

    def __init__(self, name: str, datatype: str, shape: tuple[int, ...], data: np.ndarray) -> None:
        vars(self).update(name=name, datatype=datatype, shape=shape, data=data)  # at once: see request.py

    def renamed(self, name: str) -> "Tensor":
        return Tensor(name, self.datatype, self.shape, self.data)


def tensor(name: str, datatype: str, values: Sequence[Any] | np.ndarray) -> Tensor:
    """A tensor of our own making; a str among BYTES is encoded."""
    if datatype == "BYTES":
        values = [value.encode() if isinstance(value, str) else value for value in values]
    data = np.array(values, dtype=dtype_of(datatype))
    return Tensor(name, datatype, data.shape, data)


def dtype_of(datatype: str) -> Any:
    if datatype not in _NUMPY:
        raise invalid(f"datatype {datatype!r:.40} is not one of {', '.join(DATATYPES)}")
    return _NUMPY[datatype]


def item_bytes(datatype: str) -> int:
    """Of one element on the wire; not for BYTES, whose elements differ."""
    return 2 if datatype == "BF16" else np.dtype(dtype_of(datatype)).itemsize


def num_elements(name: str, shape: Sequence[Any]) -> int:
    """The product of a shape's dims, each of which is looked at."""
    if len(shape) > _MOST_DIMS:
        raise invalid(f"tensor {name!r:.80} has {len(shape)} dims, at most {_MOST_DIMS} are read")
    for dim in shape:
        if type(dim) is not int or not 0 <= dim <= _LARGEST_DIM:
            raise invalid(f"tensor {name!r:.80} has dim {dim!r:.40}; dims are whole numbers from 0 to {_LARGEST_DIM}")
    return math.prod(shape)


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    count = num_elements(name, shape)
    if datatype in _PLAIN:
        dtype = _PLAIN[datatype]
        if len(raw) != count * dtype.itemsize:
            raise _wrong_size(name, datatype, shape, count * dtype.itemsize, len(raw))
        return Tensor(name, datatype, tuple(shape), np.frombuffer(raw, dtype).reshape(shape))
    dtype_of(datatype)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _as_objects(_split(name, raw, count), shape))
    size = count * item_bytes(datatype)
    if len(raw) != size:
        raise _wrong_size(name, datatype, shape, size, len(raw))
    if datatype == "BF16":
        data = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view(np.float32)
    else:  # BOOL
        data = np.frombuffer(raw, np.uint8) != 0
    return Tensor(name, datatype, tuple(shape), data.reshape(shape))


def _wrong_size(name: str, datatype: str, shape: Sequence[int], expected: int, size: int) -> RequestError:
    return invalid(f"tensor {name!r:.80} {datatype} {list(shape)} takes {expected} bytes, not {size}")


def to_raw(tensor: Tensor) -> Raw:
    """Of large tensors a view of what there is: a fresh buffer of megabytes costs more than filling it."""
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(item)) + item for item in tensor.data.flat)
    if tensor.datatype == "BF16":
        return _bfloat16(np.ascontiguousarray(tensor.data, np.float32)).tobytes()
    data = np.ascontiguousarray(tensor.data, _PLAIN.get(tensor.datatype, np.bool_))
    if data.nbytes <= _SMALL_BYTES:
        return data.tobytes()
    return data.reshape(-1).view(np.uint8).data


def to_bytes(tensor: Tensor) -> bytes:
    """The same as an object of its own: the one that the tensor was read from, if it is there."""
    raw = to_raw(tensor)
    if isinstance(raw, bytes):
        return raw
    base = tensor.data
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return base if isinstance(base, bytes) and len(base) == len(raw) else bytes(raw)


def from_list(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
    """`values`: Python values in row-major order, flat or nested as the shape is."""
    count = num_elements(name, shape)
    dtype = dtype_of(datatype)
    flat = _flat(name, values, len(shape))
    if len(flat) != count:
        raise invalid(f"tensor {name!r:.80} of shape {list(shape)} has {count} elements, but {len(flat)} are given")
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _as_objects(_encoded(name, flat), shape))
    _check_kind(name, datatype, np.dtype(dtype), flat)
    try:
        with np.errstate(over="ignore"):  # an infinity that nobody sent is refused below
            data = np.array(flat, dtype=dtype)
    except (OverflowError, ValueError, TypeError):
        raise invalid(f"tensor {name!r:.80} has an element that does not fit {datatype}") from None
    if data.dtype.kind == "f" and np.isinf(data).sum() > sum(map(math.isinf, flat)):
        raise invalid(f"tensor {name!r:.80} has an element that does not fit {datatype}")
    return Tensor(name, datatype, tuple(shape), data.reshape(shape))


def to_list(tensor: Tensor) -> list[Any]:
    """The elements flat, in row-major order; BYTES as text. Raises RequestError where BYTES are no text."""
    return texts(tensor) if tensor.datatype == "BYTES" else tensor.data.ravel().tolist()


def texts(tensor: Tensor) -> list[str]:
    """BYTES as texts. Raises RequestError where they are not UTF-8."""
    try:
        return [item.decode() for item in tensor.data.flat]
    except UnicodeDecodeError:
        raise invalid(f"tensor {tensor.name!r} is not UTF-8") from None


def _split(name: str, raw: bytes | memoryview, count: int) -> list[bytes]:
    """`count` elements with their lengths before them, and nothing after."""
    if count * 4 > len(raw):
        raise invalid(f"tensor {name!r:.80} has {count} elements, more than its {len(raw)} bytes can hold")
    found, place = [], 0
    for _ in range(count):
        start = place + 4
        if start > len(raw):
            raise invalid(f"tensor {name!r:.80} ends inside the length of an element")
        place = start + struct.unpack_from("<I", raw, start - 4)[0]
        if place > len(raw):
            raise invalid(f"tensor {name!r:.80} has an element that goes beyond its {len(raw)} bytes")
        found.append(bytes(raw[start:place]))
    if place != len(raw):
        raise invalid(f"tensor {name!r:.80} has {len(raw) - place} bytes after its {count} elements")
    return found


def _as_objects(items: list[bytes], shape: Sequence[int]) -> np.ndarray:
    data = np.empty(len(items), np.object_)
    data[:] = items
    return data.reshape(shape)


def _flat(name: str, values: Sequence[Any], num_dims: int) -> list[Any]:
    flat: Iterable[Any] = values
    for _ in range(num_dims - 1):
        if not any(isinstance(item, list) for item in flat):
            break
        if not all(isinstance(item, list) for item in flat):
            raise invalid(f"tensor {name!r:.80} mixes lists and values")
        flat = [item for inner in flat for item in inner]
    return list(flat)


def _check_kind(name: str, datatype: str, dtype: np.dtype, flat: list[Any]) -> None:
    allowed: tuple[type, ...] = (bool,) if dtype.kind == "b" else (int, float) if dtype.kind == "f" else (int,)
    wrong = next((item for item in flat if type(item) not in allowed), None)
    if wrong is not None or (flat and None in flat):
        raise invalid(f"tensor {name!r:.80} is {datatype}, and an element of it is {wrong!r:.40}")


def _encoded(name: str, flat: list[Any]) -> list[bytes]:
    try:
        return [item if isinstance(item, bytes) else item.encode() for item in flat]
    except (AttributeError, UnicodeEncodeError):
        raise invalid(f"tensor {name!r:.80} is BYTES: its elements are texts in Unicode") from None


def _bfloat16(data: np.ndarray) -> np.ndarray:
    """float32 -> the upper 16 bits, rounded to nearest even; NaN stays NaN."""
    bits = data.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(data), 0x7FC0, rounded).astype("<u2")
