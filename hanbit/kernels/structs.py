"""The structs of native/*.h as ctypes sees them, and constants. Pointers are addresses: whoever fills one keeps its
memory alive."""

import ctypes
from collections.abc import Sequence
from enum import IntEnum

Address = ctypes.c_void_p
Count = ctypes.c_int64


MOST_MATRICES = 3  # of one layer
LARGEST_INT8, SMALLEST = 127.0, 1e-30  # how numbers become int8, as native/vector.h says; a test compares them


class Matrix(ctypes.Structure):
    """weight: float32 [out, in], or panels of blocks as `kind` says (blocks.py)."""

    _fields_ = [("weight", Address), ("kind", Count), ("outputs", Count)]


class Linear(ctypes.Structure):
    """Matrices side by side; bias [outputs] or None."""

    _fields_ = [
        ("matrices", Matrix * MOST_MATRICES),
        ("num_matrices", Count),
        ("bias", Address),
        ("inputs", Count),
        ("outputs", Count),
    ]


def linear(inputs: int, matrices: Sequence[Matrix], bias: int | None = None) -> Linear:
    """`bias` is its address."""
    outputs = sum(matrix.outputs for matrix in matrices)
    return Linear((Matrix * MOST_MATRICES)(*matrices), len(matrices), bias, inputs, outputs)


class Kept(IntEnum):
    """How a head lies in the cache, as in native/kernels.h: int8 has a float32 behind it."""

    FLOATS = 0
    INT8 = 1


class Layer(ctypes.Structure):
    """Of HanbitLayer: `projection` and `gate_up` are matrices side by side, `window` 0 is all earlier tokens."""

    _fields_ = [
        ("attention_norm", Address),
        ("projection", Linear),
        ("query_norm", Address),
        ("key_norm", Address),
        ("output", Linear),
        ("mlp_norm", Address),
        ("gate_up", Linear),
        ("down", Linear),
        ("keys", Address),
        ("values", Address),
        ("scale", ctypes.c_float),
        ("window", Count),
    ]


class Decoder(ctypes.Structure):
    """Of HanbitDecoder."""

    _fields_ = [
        *((name, Count) for name in ("num_layers", "hidden", "heads", "key_value_heads", "head_dim", "inner")),
        ("block_size", Count),
        ("kept", Count),
        ("epsilon", ctypes.c_float),
        ("rotated", Count),
        ("cosines", Address),
        ("sines", Address),
        ("embedding", Matrix),
        ("layers", ctypes.POINTER(Layer)),
        ("norm", Address),
        ("head", Linear),
    ]


class Reading(ctypes.Structure):
    """Of HanbitReading: what a batch of texts holds of new words, and, once they are learnt, all ids."""

    _fields_ = [
        ("new_words", ctypes.POINTER(Count)),  # [num_new, 2] bytes: begin, end
        ("num_new", Count),
        ("ids", Address),  # [num_ids] int32
        ("ends", ctypes.POINTER(Count)),
        ("num_ids", Count),
    ]
