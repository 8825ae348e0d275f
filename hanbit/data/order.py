"""In which order an epoch visits its samples: a permutation that is computed, never stored.

`permuted(positions, count, seed, epoch)` is a bijection on 0..count-1: a Feistel network over the next even number of
bits, walked along its cycle until it lands inside the range (Black and Rogaway, "Ciphers with Arbitrary Finite
Domains", 2002). Memory is O(1) and any position can be asked for alone, so every rank, and a run that resumes, sees the
same order whatever the number of processes.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

_ROUNDS = 8

Seed = int | str  # text: of one source among several


def shuffled(indices: Sequence[int] | np.ndarray, count: int, seed: Seed | None) -> np.ndarray:
    """Global indices ([n], any epoch) as places of an epoch of `count`, [n] int64; seed None: in order."""
    indices = np.asarray(indices, np.int64)
    assert indices.size == 0 or indices.min() >= 0, "a global index is never negative"
    epochs, positions = np.divmod(indices, count)
    if seed is not None:
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            positions[chosen] = permuted(positions[chosen], count, seed, int(epoch))
    return positions


def whole_epochs(first: int, count: int, length: int) -> tuple[int, list[range]]:
    """How many whole epochs of `length` lie among `count` indices from `first` on, and the indices before and after."""
    begin, end = -(-first // length) * length, (first + count) // length * length
    if begin > end:  # inside one epoch
        return 0, [range(first, first + count)]
    return (end - begin) // length, [range(first, begin), range(end, first + count)]


def permuted(positions: np.ndarray, count: int, seed: Seed, epoch: int) -> np.ndarray:
    """Where each position ([n] int64, in 0..count-1) lands in epoch `epoch`; [n] int64 in the same range."""
    assert count > 0
    assert positions.size == 0 or (positions.min() >= 0 and positions.max() < count)
    half_bits = max(1, ((count - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, epoch)
    values = _network(positions.astype(np.uint64), half_bits, keys)
    outside = np.flatnonzero(values >= count)
    while outside.size:  # the domain is under 4 x count: fewer than four rounds on average
        values[outside] = _network(values[outside], half_bits, keys)
        outside = outside[values[outside] >= count]
    return values.astype(np.int64)


def _round_keys(seed: Seed, epoch: int) -> list[np.uint64]:
    digest = hashlib.sha512(f"hanbit order {seed} {epoch}".encode()).digest()  # 64 bytes: eight keys
    return [np.uint64(key) for key in np.frombuffer(digest, "<u8")[:_ROUNDS]]


def _network(values: np.ndarray, half_bits: int, keys: list[np.uint64]) -> np.ndarray:
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << shift) | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood, 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
