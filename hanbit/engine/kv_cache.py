"""Keys and values of every token fed so far: for each layer a slab of rows, one sequence a row.

A token's place is a slot, `row * capacity + position`, so that prompts and single tokens of many rows are written by
the same call. On a CPU memory is taken only as it is touched, so a large capacity costs nothing until it is used.
"""

import math

import torch

from hanbit.common.errors import GenerationError
from hanbit.common.units import readable_bytes

_CLEANED_AT_ONCE = 256  # positions


class KVCache:
    """`keys[layer]`, `values[layer]`, each of `shape`: (rows, capacity, key_value_heads, head_dim)."""

    def __init__(self, layers: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.rows, self.capacity = shape[:2]
        try:
            self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
            self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
        except RuntimeError as problem:  # torch's one class for every refusal of memory
            needed = readable_bytes(2 * layers * math.prod(shape) * dtype.itemsize)
            raise GenerationError(
                f"the key-value cache of {self.rows} sequences of {self.capacity} tokens takes {needed}, which "
                "this machine refuses. Lower max_tokens, or max_sequences of the LLM"
            ) from problem
        self._clean = [0] * self.rows  # positions of each row below this hold numbers

    def clean(self, rows: int, end: int) -> None:
        """Make positions below `end` of the first rows finite: a masked place still counts if it holds NaN."""
        for row in range(rows):
            start = self._clean[row]
            if start < end:
                self._clean[row] = min(self.capacity, max(end, start + _CLEANED_AT_ONCE))
                for slab in (*self.keys, *self.values):
                    slab[row, start : self._clean[row]] = 0

    def written(self, row: int, end: int) -> None:
        """A prompt is about to fill `row` up to `end`, from its beginning on."""
        self._clean[row] = max(self._clean[row], end)

    def spoil(self, row: int) -> None:
        """What `row` holds may be no numbers."""
        self._clean[row] = 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of row `source` over row `target`."""
        for slab in (*self.keys, *self.values):
            slab[target, :length] = slab[source, :length]
        self._clean[target] = max(self._clean[target], length)
