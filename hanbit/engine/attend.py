"""How the engine attends: write this step's keys and values into the cache, look at all that are visible.

A step's tokens come flat, [tokens, 1, ..], part by part (parts.py), so that prompts and growing answers share every
product. Here they come apart: a prompt's part looks at its own sequence; single tokens look at theirs in one call.

The model asks `attend(index)` for each layer's function (docs/models.md); what the layers share in a step is set once,
by `begin`, before the trunk runs. The same functions bring the step's adapters to the layers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hanbit.engine.adapters import NO_ADAPTERS, StepAdapters
from hanbit.engine.kv_cache import KVCache
from hanbit.engine.parts import Part
from hanbit.models.layers.alibi import biased_mask
from hanbit.models.layers.attend import product
from hanbit.models.layers.relative import RelativeBias


@dataclass(frozen=True)
class View:
    """What some of a step's tokens see: of the blocks in `table` [sequences, blocks] the positions in `seen`, all or as
    `mask` says; or only one another, causally, where there is no table. `rows`: those tokens' places in the step."""

    rows: slice | torch.Tensor
    sequences: int
    table: torch.Tensor | None = None
    seen: slice | None = None
    mask: torch.Tensor | None = None


Kind = tuple[int | None, tuple[float, ...] | None, RelativeBias | None]
"""What layers have in common that see alike: their window, the slopes of their heads (attention.py), their table of
distances."""


def kind_of(layer: Any) -> Kind:
    return layer.sliding_window, layer.alibi_slopes, layer.relative


class PagedAttend:
    """`kinds`: those of the model's layers."""

    def __init__(self, cache: KVCache, kinds: Iterable[Kind]) -> None:
        self.cache = cache
        self.kinds = frozenset(kinds)
        self.dtype, self.device = cache.shape.dtype, cache.shape.device
        self.slots = torch.empty(0, dtype=torch.int64)  # where this step's tokens are written, [tokens]
        self.views: dict[Kind, list[View]] = {}
        self.adapters: StepAdapters = NO_ADAPTERS
        self._functions = [LayerFunction(self, index) for index in range(len(cache.keys))]

    def __call__(self, index: int) -> "LayerFunction":
        return self._functions[index]

    def begin(self, parts: Sequence[Part[Any]]) -> None:
        """These parts are fed, one after another."""
        size = self.cache.block_size
        slots = [part.blocks[at // size] * size + at % size for part in parts for at in range(part.start, part.last)]
        self.slots = torch.tensor(slots, device=self.device)
        self.views = {kind: self._views(parts, kind) for kind in self.kinds}

    def _views(self, parts: Sequence[Part[Any]], kind: Kind) -> list[View]:
        views, first = [], 0
        single, rows = [], []
        for part in parts:
            end = first + part.num_rows
            if end - first == 1:
                single.append(part)
                rows.append(first)
            else:
                views.append(self._view_of_prompt(part, slice(first, end), kind))
            first = end
        if single:
            places = slice(rows[0], rows[-1] + 1) if len(rows) == rows[-1] + 1 - rows[0] else self._tensor(rows)
            views.append(self._view_of_tokens(single, places, kind))
        return views

    def _view_of_prompt(self, part: Part[Any], rows: slice, kind: Kind) -> View:
        window = kind[0]
        last = part.last
        is_exact = not self.cache.shape.is_int8  # else what was rounded is looked at, wherever a prompt is cut
        if part.start == 0 and (window is None or last <= window) and not _adds_to_scores(kind) and is_exact:
            return View(rows, 1)  # the kernel's own triangle needs no mask, and nothing is read back
        begin = 0 if window is None else max(0, part.start + 1 - window)
        queries = torch.arange(part.start, last, device=self.device).unsqueeze(1)
        table, before = self._table([part], begin, last)
        seen = slice(begin - before, last - before)
        return View(rows, 1, table, seen, self._mask(queries, begin, last, kind))

    def _view_of_tokens(self, parts: Sequence[Part[Any]], rows: slice | torch.Tensor, kind: Kind) -> View:
        window = kind[0]
        positions = [part.start for part in parts]
        begin, end = 0 if window is None else max(0, min(positions) + 1 - window), max(positions) + 1
        table, before = self._table(parts, begin, end)
        seen = slice(begin - before, end - before)
        if min(positions) == max(positions) and not _adds_to_scores(kind):
            return View(rows, len(parts), table, seen)
        mask = self._mask(self._tensor(positions).view(-1, 1, 1, 1), begin, end, kind)
        return View(rows, len(parts), table, seen, mask)

    def _table(self, parts: Sequence[Part[Any]], begin: int, end: int) -> tuple[torch.Tensor, int]:
        """The blocks of positions begin..end of each, and where the first begins. Behind a shorter one: any."""
        first, last = begin // self.cache.block_size, -(-end // self.cache.block_size)
        rows = [list(part.blocks[first:last]) for part in parts]
        return self._tensor([row + [0] * (last - first - len(row)) for row in rows]), first * self.cache.block_size

    def _tensor(self, numbers: list[Any]) -> torch.Tensor:
        return torch.tensor(numbers, device=self.device)

    def _mask(self, queries: torch.Tensor, begin: int, end: int, kind: Kind) -> torch.Tensor:
        """0, or what slopes take off or a table adds, where a query position sees a key position, -inf elsewhere. Every
        layer would make this of a bool mask."""
        window, slopes, relative = kind
        back = queries - torch.arange(begin, end, device=self.device)
        is_seen = back >= 0 if window is None else (back >= 0) & (back < window)
        if slopes is not None:
            return biased_mask(is_seen, back, slopes, self.dtype)
        if relative is not None:
            added = relative.between(-back) if back.dim() == 2 else relative.between(-back.squeeze(1))
            return added.masked_fill(~is_seen, float("-inf")).to(self.dtype)
        return torch.zeros(back.shape, dtype=self.dtype, device=self.device).masked_fill_(~is_seen, float("-inf"))


def _adds_to_scores(kind: Kind) -> bool:
    return kind[1] is not None or kind[2] is not None


class LayerFunction:
    """One layer's function: called with q, k and v it attends, `adapt` adds what the step's adapters change."""

    def __init__(self, attend: PagedAttend, index: int) -> None:
        self._attend, self._index = attend, index

    def adapt(self, place: str, hidden: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` of the matrix at `place`, which was fed `hidden`; changed in place where adapters say so."""
        adapters = self._attend.adapters
        return adapters.add(self._index, place, hidden, output) if adapters.parts else output

    def __call__(self, layer: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """q [tokens, 1, heads, head_dim], k and v with key_value_heads; gives as q."""
        self._attend.cache.write(self._index, self._attend.slots, k.squeeze(1), v.squeeze(1))
        views = self._attend.views[kind_of(layer)]
        if len(views) == 1:  # all tokens, in their order
            return self._look(layer, views[0], q, k, v)
        output = torch.empty_like(q)
        for view in views:
            output[view.rows] = self._look(layer, view, q[view.rows], k[view.rows], v[view.rows])
        return output

    def _look(self, layer: Any, view: View, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """q of the view's tokens; gives as q."""
        shape = (view.sequences, -1, *k.shape[2:])
        if view.table is None or view.seen is None:
            k, v = k.view(shape), v.view(shape)
        else:
            k, v = self._attend.cache.read(self._index, view.table, view.seen)
        queries = q.reshape(view.sequences, -1, *q.shape[2:]).transpose(1, 2)
        # [sequences, key_value_heads, positions, head_dim]
        output = product(layer, queries, k.transpose(1, 2), v.transpose(1, 2), view.mask, view.table is None)
        return output.transpose(1, 2).reshape(q.shape)
