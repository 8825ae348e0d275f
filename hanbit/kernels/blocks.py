"""ggml's blocks of 32 numbers, rearranged for the kernels (native/blocks.cpp): panels of 16 outputs. Numpy alone.

    a row of the file:   scale, (least,) 32 numbers; the next block ...
    a panel's block:     numbers of 16 rows, 4 inputs of each in turn; 16 scales; (16 least numbers)

Of numbers with more than 4 bits the lower 4 come first: a byte has input i below, 16 + i above. Where blocks have
integers for scales (the K kinds), a panel has the fp16 numbers that these are times before every 8 blocks.

The integers and the fp16 scales are the file's own; nothing is rounded again and no byte is added but for rows that
fill up the last panel, and in Q4_K and Q5_K for scales of 6 bits, which get 8.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

BLOCK = 32  # inputs
PANEL = 16  # outputs
_FOUR = 4  # inputs of an output that lie together
_BLOCKS_OF_K = 8


class Kind(IntEnum):
    """As in native/kernels.h. A name is ggml's, but for plain floats, which lie as PyTorch has them."""

    FLOAT32 = 0
    Q4_0 = 1
    Q4_1 = 2
    Q8_0 = 3
    Q5_0 = 4
    Q4_K = 5
    Q6_K = 6
    FLOAT16 = 7
    BFLOAT16 = 8
    Q5_1 = 9
    Q5_K = 10


FLOATS = (Kind.FLOAT32, Kind.FLOAT16, Kind.BFLOAT16)


def kind_of(name: str) -> Kind | None:
    """Of ggml's name; None where the kernels do not multiply such blocks."""
    kind = Kind.__members__.get(name)
    return None if kind in FLOATS else kind


def pack(kind: Kind, rows: np.ndarray) -> np.ndarray:
    """rows: uint8 [outputs, bytes of a row]; panels, uint8 [bytes]. Raises ValueError if a scale is not finite."""
    missing = -len(rows) % PANEL
    if missing:
        rows = np.concatenate((rows, np.zeros((missing, rows.shape[1]), np.uint8)))
    parts = _PARTS[kind](rows)
    halves = parts.scales if parts.head is None else parts.head
    if not np.isfinite(np.ascontiguousarray(halves).view(np.float16)).all():
        raise ValueError("a scale is not a finite number")
    blocks = np.concatenate((_turned(parts.numbers, _FOUR), _turned(parts.scales, 2 if parts.head is None else 1)), -1)
    if parts.head is not None:
        by_head = blocks.reshape(len(blocks), -1, _BLOCKS_OF_K * blocks.shape[-1])
        blocks = np.concatenate((_turned(parts.head, 2), by_head), -1)
    return blocks.reshape(-1)


@dataclass(frozen=True)
class _Parts:
    """Of blocks, uint8. `head`: of 8 of them [outputs, heads, bytes]; then `scales` are bytes, else they are fp16."""

    numbers: np.ndarray  # [outputs, blocks, bytes]
    scales: np.ndarray
    head: np.ndarray | None = None


def _plain(scale_bytes: int, block_bytes: int) -> Callable[[np.ndarray], _Parts]:
    """Scales, then numbers, which lie as they should."""

    def parts(rows: np.ndarray) -> _Parts:
        blocks = rows.reshape(len(rows), -1, block_bytes)
        return _Parts(blocks[..., scale_bytes:], blocks[..., :scale_bytes])

    return parts


def _fives(scale_bytes: int) -> Callable[[np.ndarray], _Parts]:
    """Scales; 32 bits, of input i the i-th; 16 bytes of lower bits."""

    def parts(rows: np.ndarray) -> _Parts:
        blocks = rows.reshape(len(rows), -1, scale_bytes + 20)
        scales, bits, nibbles = np.split(blocks, (scale_bytes, scale_bytes + 4), -1)
        tops = _tops(np.unpackbits(bits, axis=-1, bitorder="little"))
        return _Parts(np.concatenate((nibbles, tops), -1), scales)

    return parts


def _q4_k(rows: np.ndarray) -> _Parts:
    """fp16 of scales, fp16 of least numbers; 12 bytes of 8 + 8 integers of 6 bits; 128 bytes of numbers."""
    heads = rows.reshape(len(rows), -1, 144)
    return _Parts(_nibbles(_halves(heads[..., 16:])), _sixes(heads[..., 4:16]), heads[..., :4])


def _q5_k(rows: np.ndarray) -> _Parts:
    """As Q4_K, and before the numbers 32 bytes: of each input of 8 blocks a bit, the first block's the lowest."""
    heads = rows.reshape(len(rows), -1, 176)
    bits = heads[..., None, 16:48] >> np.arange(_BLOCKS_OF_K, dtype=np.uint8)[:, None] & 1
    tops = _tops(bits.reshape(len(rows), -1, BLOCK))
    numbers = np.concatenate((_nibbles(_halves(heads[..., 48:])), tops), -1)
    return _Parts(numbers, _sixes(heads[..., 4:16]), heads[..., :4])


def _halves(content: np.ndarray) -> np.ndarray:
    """[rows, heads, 128] -> [rows, blocks, 32]: of 32 bytes the lower halves are a block, the upper the next."""
    pairs = content.reshape(*content.shape[:2], 4, 1, BLOCK)
    return np.concatenate((pairs & 15, pairs >> 4), 3).reshape(len(content), -1, BLOCK)


def _sixes(content: np.ndarray) -> np.ndarray:
    """[rows, heads, 12] -> [rows, blocks, 2]: scales and least numbers."""
    low, high, rest = (content[..., 4 * i : 4 + 4 * i] for i in range(3))
    scales = np.concatenate((low & 63, (rest & 15) | (low >> 6 << 4)), -1)
    least = np.concatenate((high & 63, (rest >> 4) | (high >> 6 << 4)), -1)
    return np.stack((scales, least), -1).reshape(len(content), -1, 2)


def _tops(bits: np.ndarray) -> np.ndarray:
    """[.., 32], each 0 or 1 -> [.., 4]: a byte has those of inputs k, 4 + k, .. 28 + k."""
    by_place = bits.reshape(*bits.shape[:-1], 8, _FOUR).swapaxes(-2, -1)
    return np.packbits(by_place, axis=-1, bitorder="little")[..., 0]


def _q6_k(rows: np.ndarray) -> _Parts:
    """128 bytes of lower 4 bits, 64 of upper 2, 16 signed scales of 16 numbers each, fp16. Each half of the bytes is
    128 numbers: 32 are the lower bits of the first bytes, 32 those of the next, then their upper bits."""
    heads = rows.reshape(len(rows), -1, 210)
    lower = heads[..., :128].reshape(*heads.shape[:2], 2, 1, 64)
    upper = heads[..., 128:192].reshape(*heads.shape[:2], 2, 1, 32)
    nibbles = np.concatenate((lower & 15, lower >> 4), 3).reshape(*heads.shape[:2], 2, 4, 32)
    pairs = np.concatenate([upper >> 2 * i & 3 for i in range(4)], 3)
    nibbles, pairs = (part.reshape(len(rows), -1, BLOCK) for part in (nibbles, pairs))
    apart = pairs.reshape(*pairs.shape[:2], 2, 2, 2, _FOUR)  # [.., half of a block, chunks of 4 by two]
    evens_and_odds = apart[..., 0, :] | apart[..., 1, :] << 2
    tops = evens_and_odds[:, :, 0] | evens_and_odds[:, :, 1] << 4
    numbers = np.concatenate((_nibbles(nibbles), tops.reshape(*pairs.shape[:2], 8)), -1)
    return _Parts(numbers, heads[..., 192:208].reshape(len(rows), -1, 2), heads[..., 208:])


def _nibbles(numbers: np.ndarray) -> np.ndarray:
    """[.., 32] -> [.., 16]"""
    return numbers[..., :16] | numbers[..., 16:] << 4


_PARTS: dict[Kind, Callable[[np.ndarray], _Parts]] = {
    Kind.Q4_0: _plain(2, 18),
    Kind.Q4_1: _plain(4, 20),
    Kind.Q8_0: _plain(2, 34),
    Kind.Q5_0: _fives(2),
    Kind.Q5_1: _fives(4),
    Kind.Q4_K: _q4_k,
    Kind.Q5_K: _q5_k,
    Kind.Q6_K: _q6_k,
}


def _turned(rows: np.ndarray, size: int) -> np.ndarray:
    """[outputs, blocks, bytes] -> [panels, blocks, bytes of 16 outputs], `size` of every output in turn."""
    pieces = rows.reshape(-1, PANEL, rows.shape[1], rows.shape[2] // size, size)
    return pieces.transpose(0, 2, 3, 1, 4).reshape(len(pieces), rows.shape[1], -1)
