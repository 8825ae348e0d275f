"""Keys and values of every token fed so far: for each layer a slab of rows, one sequence a row.

A token's place is a slot, `row * capacity + position`, so that prompts and single tokens of many rows are written by
the same call. On a CPU memory is taken only as it is touched, so a large capacity costs nothing until it is used.
"""

import torch

from hanbit.common.errors import GenerationError
from hanbit.common.units import readable_bytes


_CLEANED_AT_ONCE = 256  # positions


class KVCache:
    """`keys[layer]`, `values[layer]`: [rows, capacity, key_value_heads, head_dim]."""

    def __init__(
        self,
        layers: int,
        rows: int,
        capacity: int,
        key_value_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.rows, self.capacity = rows, capacity
        shape = (rows, capacity, key_value_heads, head_dim)
        try:
            self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
            self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
        except RuntimeError as problem:  # torch has one class for every refusal of memory on a CPU
            needed = 2 * layers * rows * capacity * key_value_heads * head_dim * dtype.itemsize
            raise GenerationError(
                f"the key-value cache of {rows} sequences of {capacity} tokens takes {readable_bytes(needed)}, "
                f"which this machine refuses. Lower max_tokens, or ask for fewer prompts at once"
            ) from problem

        self._clean = 0

    def clean(self, end: int) -> None:
        """Make every row's positions below `end` numbers: a masked place still counts if it holds NaN."""
        if end <= self._clean:
            return
        reach = min(self.capacity, max(end, self._clean + _CLEANED_AT_ONCE))
        for slab in (*self.keys, *self.values):
            slab[:, self._clean : reach] = 0
        self._clean = reach

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of row `source` over row `target`."""
        for slab in (*self.keys, *self.values):
            slab[target, :length] = slab[source, :length]
