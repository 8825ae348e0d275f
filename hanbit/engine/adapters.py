"""LoRA (Hu et al., arXiv 2106.09685) in a mixed batch: each sequence has its own adapter or none, weights stay as read.

An adapter's pairs (A [rank, in], B [out, rank]) per matrix become pairs per joined matrix (fuse.py): what reads the
same input is one product, down [in, ranks], up [ranks, out], with zeros where a part's ranks do not reach.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from hanbit.formats.peft import Adapter

Pair = tuple[torch.Tensor, torch.Tensor]
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Place:
    """A joined matrix of a block: how wide its input is, and its parts' outputs, side by side, by name in the block."""

    inputs: int
    parts: Mapping[str, int]


@dataclass(frozen=True)
class JoinedAdapter:
    """By layer index: place of a joined matrix -> (down [in, ranks], up [ranks, out]), the scale inside `up`.

    `root`: no other adapter's, not even of the same name: what is cached with one is not found with another.
    """

    name: str
    layers: tuple[Mapping[str, Pair], ...]
    root: bytes = field(default_factory=lambda: next(_NUMBERS).to_bytes(8))


class StepAdapters:
    """The adapters of one step's rows: `parts` are (rows, adapter), rows None for all of them."""

    def __init__(self, parts: Sequence[tuple[torch.Tensor | None, JoinedAdapter]]) -> None:
        self.parts = tuple(parts)

    def add(self, layer: int, place: str, hidden: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """output [rows, tokens, out], changed in place, for hidden [rows, tokens, in]."""
        for rows, adapter in self.parts:
            pair = adapter.layers[layer].get(place)
            if pair is None:
                continue
            down, up = pair
            if rows is None:
                output += hidden @ down @ up
            else:
                output.index_add_(0, rows, hidden[rows] @ down @ up)
        return output


NO_ADAPTERS = StepAdapters(())


def of_rows(adapters: Sequence[JoinedAdapter | None], device: torch.device) -> StepAdapters:
    """Rows with the same adapter are one product."""
    rows: dict[int, list[int]] = {}
    for row, adapter in enumerate(adapters):
        if adapter is not None:
            rows.setdefault(id(adapter), []).append(row)
    if not rows:
        return NO_ADAPTERS
    parts = []
    for found in rows.values():
        adapter = adapters[found[0]]
        assert adapter is not None
        index = None if len(found) == len(adapters) else torch.tensor(found, device=device)
        parts.append((index, adapter))
    return StepAdapters(parts)


def join(adapter: Adapter, blocks: Sequence[Mapping[str, Place]], like: torch.Tensor) -> JoinedAdapter:
    """`adapter` was read for this model; `blocks`: its places, layer by layer; `like` has its dtype and device."""
    left = dict(adapter.layers)
    layers: list[dict[str, Pair]] = []
    for index, places in enumerate(blocks):
        layers.append({})
        for place, matrix in places.items():
            pairs = {part: left.pop(f"layers.{index}.{part}", None) for part in matrix.parts}
            if any(pairs.values()):
                layers[-1][place] = _joined(pairs, matrix, adapter.scale, like)
    assert not left, f"the engine adapts no {next(iter(left))}"
    return JoinedAdapter(adapter.name, tuple(layers))


def _joined(pairs: Mapping[str, Pair | None], matrix: Place, scale: float, like: torch.Tensor) -> Pair:
    ranks = sum(len(pair[0]) for pair in pairs.values() if pair is not None)
    down, up = like.new_zeros(matrix.inputs, ranks), like.new_zeros(ranks, sum(matrix.parts.values()))
    rank = output = 0
    for part, pair in pairs.items():
        if pair is not None:
            a, b = pair
            down[:, rank : rank + len(a)] = a.T
            up[rank : rank + len(a), output : output + len(b)] = b.T * scale
            rank += len(a)
        output += matrix.parts[part]
    return down, up
