"""How the engine attends: write this step's keys and values into the cache, look at all that are visible.

The model asks `attend(index)` for each layer's function (docs/models.md); what the layers share in a step is set once,
by `prefill` or `decode`, before the trunk runs. The same functions bring the step's adapters to the layers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from hanbit.engine.adapters import NO_ADAPTERS, StepAdapters
from hanbit.engine.kv_cache import KVCache


@dataclass(frozen=True)
class View:
    """What a step's queries see: these rows and positions of the cache, all or as `mask` and `is_causal` say."""

    seen: tuple[slice, slice]
    mask: torch.Tensor | None = None
    is_causal: bool = False


class CachedAttend:
    """`windows`: those of the model's layers, tokens a query looks back, itself included; None for all."""

    def __init__(self, cache: KVCache, windows: Iterable[int | None]) -> None:
        self.cache = cache
        self.windows = frozenset(windows)
        self.dtype, self.device = cache.keys[0].dtype, cache.keys[0].device
        self.slots = torch.empty(0, dtype=torch.int64)  # where this step's tokens are written, [tokens]
        self.views: dict[int | None, View] = {}  # by window
        self.adapters: StepAdapters = NO_ADAPTERS
        self._functions = [LayerFunction(self, index) for index in range(len(cache.keys))]

    def __call__(self, index: int) -> "LayerFunction":
        return self._functions[index]

    def prefill(self, row: int, start: int, end: int) -> None:
        """Positions start..end of one sequence are fed, after those before start."""
        self.cache.written(row, end)
        first = row * self.cache.capacity
        self.slots = torch.arange(first + start, first + end, device=self.device)
        self.views = {window: self._view_of_prompt(row, start, end, window) for window in self.windows}

    def decode(self, positions: Sequence[int]) -> None:
        """One token of each of the first rows is fed, at these positions."""
        self.cache.clean(len(positions), max(positions) + 1)
        places = torch.tensor(positions, device=self.device)
        self.slots = places + torch.arange(len(positions), device=self.device) * self.cache.capacity
        self.views = {window: self._view_of_tokens(positions, places, window) for window in self.windows}

    def _view_of_prompt(self, row: int, start: int, end: int, window: int | None) -> View:
        begin = 0 if window is None else max(0, start + 1 - window)
        seen = (slice(row, row + 1), slice(begin, end))
        if start == 0 and (window is None or end <= window):
            return View(seen, is_causal=True)  # the kernel's own triangle needs no mask
        queries = torch.arange(start, end, device=self.device).unsqueeze(1)
        return View(seen, self._mask(queries, begin, end, window))

    def _view_of_tokens(self, positions: Sequence[int], places: torch.Tensor, window: int | None) -> View:
        end = max(positions) + 1
        begin = 0 if window is None else max(0, min(positions) + 1 - window)
        seen = (slice(len(positions)), slice(begin, end))
        if min(positions) == max(positions):
            return View(seen)
        return View(seen, self._mask(places.view(-1, 1, 1, 1), begin, end, window))

    def _mask(self, queries: torch.Tensor, begin: int, end: int, window: int | None) -> torch.Tensor:
        """0 where a query position sees a key position, -inf elsewhere. Every layer would make this of a bool mask."""
        back = queries - torch.arange(begin, end, device=self.device)
        is_seen = back >= 0 if window is None else (back >= 0) & (back < window)
        return torch.zeros(back.shape, dtype=self.dtype, device=self.device).masked_fill_(~is_seen, float("-inf"))


class LayerFunction:
    """One layer's function: called with q, k and v it attends, `adapt` adds what the step's adapters change."""

    def __init__(self, attend: CachedAttend, index: int) -> None:
        self._attend, self._index = attend, index
        self._keys, self._values = attend.cache.keys[index], attend.cache.values[index]
        self._flat_keys, self._flat_values = self._keys.flatten(0, 1), self._values.flatten(0, 1)  # views, by slot

    def adapt(self, place: str, hidden: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` of the matrix at `place`, which was fed `hidden`; changed in place where adapters say so."""
        adapters = self._attend.adapters
        return adapters.add(self._index, place, hidden, output) if adapters.parts else output

    def __call__(self, layer: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """q [rows, tokens, heads, head_dim], k and v with key_value_heads; gives as q."""
        self._flat_keys.index_copy_(0, self._attend.slots, k.flatten(0, 1))
        self._flat_values.index_copy_(0, self._attend.slots, v.flatten(0, 1))
        view = self._attend.views[layer.sliding_window]
        # Groups of query heads share a key head inside the kernel, which is faster than repeating the key heads
        # (14 times) and than folding the group into the rows of the query (1.1 to 1.9 times).
        output = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            self._keys[view.seen].transpose(1, 2),  # [rows, key_value_heads, positions, head_dim]
            self._values[view.seen].transpose(1, 2),
            attn_mask=view.mask,
            is_causal=view.is_causal,
            scale=layer.scale,
            enable_gqa=q.shape[2] != k.shape[2],
        )
        return output.transpose(1, 2)
