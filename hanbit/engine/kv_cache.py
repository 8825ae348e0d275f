"""Keys and values of every token fed so far: for each layer a slab of blocks, whose owners room.py knows.

A head lies there as it came, or, where that is asked for, as int8 numbers and behind them, in four bytes, the float32
that they are to be multiplied with: the largest of a head becomes 127.

A token's place in a slab is a slot, `block * block_size + position % block_size`, so that tokens of many sequences are
written by the same call. On a CPU memory is taken only as it is touched: a large cache costs nothing until it is used.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hanbit.common.errors import GenerationError
from hanbit.common.units import readable_bytes
from hanbit.kernels.structs import LARGEST_INT8, SMALLEST

BLOCK_SIZE = 16  # tokens: what a shared beginning is rounded down to, and half of it lost at a sequence's end
_AUTO_BYTES = 4 << 30  # of a cache whose size nobody has given; and at most
_AUTO_SHARE = 0.25  # of all memory
_SCALE_BYTES = 4
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class CacheShape:
    """What the cache keeps of a token: for each layer a key and a value of [key_value_heads, head_dim]."""

    layers: int
    key_value_heads: int
    head_dim: int
    dtype: torch.dtype  # of the model
    device: torch.device
    is_int8: bool = False

    @property
    def kept(self) -> tuple[torch.dtype, int]:
        """Of the slabs: their dtype, and how many of these a head takes."""
        return (torch.uint8, self.head_dim + _SCALE_BYTES) if self.is_int8 else (self.dtype, self.head_dim)

    @property
    def token_bytes(self) -> int:
        dtype, width = self.kept
        return 2 * self.layers * self.key_value_heads * width * dtype.itemsize


class KVCache:
    """`keys[layer]`, `values[layer]`, each [num_blocks, block_size, key_value_heads, width of a head as it is kept].

    There are numbers everywhere. Raises GenerationError if the machine has not the memory.
    """

    def __init__(self, shape: CacheShape, num_blocks: int, block_size: int) -> None:
        self.shape, self.num_blocks, self.block_size = shape, num_blocks, block_size
        needed = num_blocks * block_size * shape.token_bytes
        most = _total_bytes(shape.device)
        size = (num_blocks, block_size, shape.key_value_heads, shape.kept[1])
        try:
            if needed > most:
                raise MemoryError
            self.keys = [_zeros(size, shape) for _ in range(shape.layers)]
            self.values = [_zeros(size, shape) for _ in range(shape.layers)]
        except (MemoryError, RuntimeError) as problem:  # torch's one class for every refusal of memory
            raise GenerationError(
                f"the key-value cache of {num_blocks} blocks of {block_size} tokens takes {readable_bytes(needed)}, "
                f"which this machine of {readable_bytes(most)} refuses. Lower num_blocks or kv_cache_gb of the LLM"
            ) from problem

    def write(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys and values [tokens, key_value_heads, head_dim] to slots [tokens]."""
        for slab, heads in ((self.keys[layer], keys), (self.values[layer], values)):
            slab.view(-1, *slab.shape[2:]).index_copy_(0, slots, _as_bytes(heads) if self.shape.is_int8 else heads)

    def read(self, layer: int, table: torch.Tensor, seen: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [sequences, positions, key_value_heads, head_dim]: of the blocks in table [sequences, blocks]
        the positions in `seen`."""
        keys, values = (slab[table].flatten(1, 2)[:, seen] for slab in (self.keys[layer], self.values[layer]))
        if self.shape.is_int8:
            return _as_numbers(keys, self.shape.dtype), _as_numbers(values, self.shape.dtype)
        return keys, values

    def copy(self, source: int, target: int) -> None:
        """Keys and values of one block to another."""
        for slab in (*self.keys, *self.values):
            slab[target] = slab[source]

    def clear_places(self, blocks: Sequence[int], start: int, end: int) -> None:
        """As `clear`, of positions start..end of a sequence that has these blocks."""
        for place in range(start, end):
            for slab in (*self.keys, *self.values):
                slab[blocks[place // self.block_size], place % self.block_size] = 0

    def clear(self, blocks: Sequence[int]) -> None:
        """Zeros: a place that nobody looks at still counts if it holds NaN."""
        for slab in (*self.keys, *self.values):
            slab[list(blocks)] = 0


def num_blocks_for(shape: CacheShape, block_size: int, tokens: int, least: int, gigabytes: float | None = None) -> int:
    """How many blocks a cache gets: room for `tokens` where that fits into `gigabytes`, and for `least` in any case.

    No gigabytes given: 4 GiB, or a quarter of the machine's memory where that is less.
    """
    if gigabytes is not None:
        return max(1, int(gigabytes * 1e9) // (block_size * shape.token_bytes))
    room = min(_AUTO_BYTES, int(_AUTO_SHARE * _total_bytes(shape.device)))
    return max(-(-least // block_size), min(-(-tokens // block_size), room // (block_size * shape.token_bytes)))


def _as_bytes(heads: torch.Tensor) -> torch.Tensor:
    """[.., head_dim] -> uint8 [.., head_dim + 4], as native kernels keep it; NaN or infinity makes the scale NaN."""
    numbers = heads.float()
    largest = numbers.abs().amax(-1, keepdim=True)
    is_usable = largest.isfinite() & (largest > SMALLEST)
    factor = torch.where(is_usable, LARGEST_INT8 / largest, 0.0)
    scale = torch.where(is_usable, largest / LARGEST_INT8, torch.where(largest.isfinite(), 0.0, float("nan")))
    codes = (numbers * factor).nan_to_num(0.0).round().to(torch.int8)
    return torch.cat((codes.view(torch.uint8), scale.view(torch.uint8)), -1)


def _as_numbers(kept: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    codes = kept[..., :-_SCALE_BYTES]
    scale = kept[..., -_SCALE_BYTES:].clone(memory_format=torch.contiguous_format)  # where floats may lie
    return (codes.view(torch.int8) * scale.view(torch.float32)).to(dtype)


def _zeros(size: tuple[int, ...], shape: CacheShape) -> torch.Tensor:
    """By numpy on a CPU: the system hands out zeros as they are touched, while torch writes them."""
    dtype = shape.kept[0]
    if shape.device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=shape.device)
    try:
        return torch.from_numpy(np.zeros(math.prod(size) * dtype.itemsize, np.uint8)).view(dtype).view(size)
    except ValueError as problem:  # more than an address can say
        raise MemoryError from problem


def _total_bytes(device: torch.device) -> int:
    """Of the device, or what a container is given of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 16 << 30
    limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else ""
    return min(total, int(limit)) if limit.isdigit() else total
