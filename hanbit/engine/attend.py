"""How the engine attends: write this step's keys and values into the cache, look at all that are visible.

The model asks `attend(index)` for each layer's function (docs/models.md); what all layers share in a step is set once,
by `prefill` or `decode`, before the trunk runs.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from hanbit.engine.kv_cache import KVCache
from hanbit.models.layers.attention import Attention

Function = Callable[[Attention, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class CachedAttend:
    """`window`: tokens a query looks back, itself included; None for all."""

    def __init__(self, cache: KVCache, window: int | None, dtype: torch.dtype, device: torch.device) -> None:
        self.cache, self.window, self.dtype, self.device = cache, window, dtype, device
        self.slots = torch.empty(0, dtype=torch.int64)  # where this step's tokens are written, [tokens]
        self.seen: tuple[slice, slice] = (slice(0), slice(0))  # rows and positions that are looked at
        self.mask: torch.Tensor | None = None
        self.is_causal = False
        self._functions = [self._function_of(index) for index in range(len(cache.keys))]

    def __call__(self, index: int) -> Function:
        return self._functions[index]

    def prefill(self, row: int, start: int, end: int) -> None:
        """Positions start..end of one sequence are fed, after those before start."""
        self.cache.clean(end)
        first = row * self.cache.capacity
        self.slots = torch.arange(first + start, first + end, device=self.device)
        begin = 0 if self.window is None else max(0, start + 1 - self.window)
        self.seen = (slice(row, row + 1), slice(begin, end))
        is_windowed = self.window is not None and end > self.window
        self.is_causal = start == 0 and not is_windowed  # the kernel's own triangle needs no mask
        queries = torch.arange(start, end, device=self.device)
        self.mask = None if self.is_causal else self._mask(queries.unsqueeze(1), begin, end)

    def decode(self, positions: Sequence[int]) -> None:
        """One token of each of the first rows is fed, at these positions."""
        places = torch.tensor(positions, device=self.device)
        self.slots = places + torch.arange(len(positions), device=self.device) * self.cache.capacity
        end = max(positions) + 1
        self.cache.clean(end)
        begin = 0 if self.window is None else max(0, min(positions) + 1 - self.window)
        self.seen = (slice(len(positions)), slice(begin, end))
        self.is_causal = False
        is_mixed = min(positions) != max(positions)
        self.mask = self._mask(places.view(-1, 1, 1, 1), begin, end) if is_mixed else None

    def _mask(self, queries: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """0 where a query position sees a key position and -inf elsewhere; a bool mask would be turned into this in
        every layer."""
        back = queries - torch.arange(begin, end, device=self.device)
        is_seen = back >= 0 if self.window is None else (back >= 0) & (back < self.window)
        return torch.zeros(back.shape, dtype=self.dtype, device=self.device).masked_fill_(~is_seen, float("-inf"))

    def _function_of(self, index: int) -> Function:
        keys, values = self.cache.keys[index], self.cache.values[index]
        flat_keys, flat_values = keys.flatten(0, 1), values.flatten(0, 1)

        def attend(layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            flat_keys.index_copy_(0, self.slots, k.flatten(0, 1))
            flat_values.index_copy_(0, self.slots, v.flatten(0, 1))
            # Groups of query heads share a key head inside the kernel, which is faster than repeating the key heads
            # (14 times) and than folding the group into the rows of the query (1.1 to 1.9 times).
            output = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                keys[self.seen].transpose(1, 2),  # [rows, key_value_heads, positions, head_dim]
                values[self.seen].transpose(1, 2),
                attn_mask=self.mask,
                is_causal=self.is_causal,
                scale=layer.scale,
                enable_gqa=q.shape[2] != keys.shape[2],
            )
            return output.transpose(1, 2)

        return attend
