"""Quantised blocks of a GGUF file as float32: the common types here, in pieces that stay in the cache, others by the
package `gguf`.

The arithmetic is the package's, operation by operation, so every bit is (tests/formats/test_gguf_numbers.py). Its own
steps of 16 rows spend five times as long, most of it in Python.
"""

from collections.abc import Callable

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

_PIECE = 4096  # blocks: half a megabyte of numbers, which the second pass finds in the cache


def numbers(blocks: np.ndarray, type: GGMLQuantizationType) -> np.ndarray:
    """uint8 [..., bytes of a row] -> float32 [..., numbers of a row]. Raises NotImplementedError for types without such
    a reading."""
    fill = _FILL.get(type)
    if fill is None:
        return dequantize(blocks, type)
    block_size, block_bytes = GGML_QUANT_SIZES[type]
    flat = blocks.reshape(-1, block_bytes)
    found = np.empty((len(flat), block_size), dtype=np.float32)
    for start in range(0, len(flat), _PIECE):
        fill(flat[start : start + _PIECE], found[start : start + _PIECE])
    return found.reshape(*blocks.shape[:-1], -1)


def _fill_q4_0(blocks: np.ndarray, found: np.ndarray) -> None:
    """Scale, 16 bytes of two codes each: the low halves come first."""
    _fill_nibbles(blocks[:, 2:], found)
    found -= 8
    found *= _halves(blocks[:, :2])


def _fill_q4_1(blocks: np.ndarray, found: np.ndarray) -> None:
    """Scale, least number, codes."""
    _fill_nibbles(blocks[:, 4:], found)
    scales = _halves(blocks[:, :4])
    found *= scales[:, :1]
    found += scales[:, 1:]


def _fill_q8_0(blocks: np.ndarray, found: np.ndarray) -> None:
    """Scale, 32 signed codes."""
    found[:] = blocks[:, 2:].view(np.int8)
    found *= _halves(blocks[:, :2])


def _fill_nibbles(codes: np.ndarray, found: np.ndarray) -> None:
    found[:, :16] = codes & 15
    found[:, 16:] = codes >> 4


def _halves(content: np.ndarray) -> np.ndarray:
    """uint8 [blocks, 2 n], little-endian float16 -> float32 [blocks, n]."""
    return np.ascontiguousarray(content).view("<f2").astype(np.float32)


_FILL: dict[GGMLQuantizationType, Callable[[np.ndarray, np.ndarray], None]] = {
    GGMLQuantizationType.Q4_0: _fill_q4_0,
    GGMLQuantizationType.Q4_1: _fill_q4_1,
    GGMLQuantizationType.Q8_0: _fill_q8_0,
}
