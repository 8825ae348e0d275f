"""Feed a runner by hand: sequences in rows, each with blocks of its own."""

from array import array
from dataclasses import dataclass

import torch

from hanbit.engine.adapters import JoinedAdapter
from hanbit.engine.parts import Part
from hanbit.engine.runner import Runner
from hanbit.models.layers.decoder import Decoder

SIZE = 4  # tokens of a block


@dataclass(eq=False)
class Row:
    """A sequence as the runner sees it."""

    tokens: list[int]
    blocks: "array[int]"
    adapter: JoinedAdapter | None = None
    reads_all: bool = False


class Rows:
    """`rows` sequences of at most `capacity` tokens in a cache of just their size, their blocks dealt out in turn."""

    def __init__(self, model: Decoder, rows: int, capacity: int, kv_cache_dtype: str = "auto") -> None:
        per_row = -(-capacity // SIZE)
        self.runner = Runner(model, rows * per_row, SIZE, kv_cache_dtype)
        self._rows = [Row([], array("i", range(row, rows * per_row, rows))) for row in range(rows)]

    def part(
        self, row: int, tokens: list[int], start: int, end: int, adapter: JoinedAdapter | None = None
    ) -> Part[Row]:
        """Positions start..end of a row's tokens."""
        one = self._rows[row]
        one.tokens, one.adapter = list(tokens), adapter
        return Part(one, start, end, one.blocks)

    def feed(self, parts: list[Part[Row]]) -> list[torch.Tensor | None]:
        return self.runner.feed(parts)

    def prefill(
        self, row: int, prompt: list[int], start: int, end: int, adapter: JoinedAdapter | None = None
    ) -> torch.Tensor | None:
        """Positions start..end of a prompt; logits [vocabulary] once all of it is fed."""
        return self.feed([self.part(row, prompt, start, end, adapter)])[0]

    def decode(
        self, tokens: list[int], positions: list[int], adapters: list[JoinedAdapter | None] | None = None
    ) -> torch.Tensor:
        """One token of each of the first rows; logits [rows, vocabulary]."""
        parts = []
        for row, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            one = self._rows[row]
            one.adapter = adapters[row] if adapters else None
            one.tokens = [*one.tokens[:position], *[0] * (position - len(one.tokens)), token]
            parts.append(Part(one, position, position + 1, one.blocks))
        logits = [found for found in self.runner.feed(parts) if found is not None]
        assert len(logits) == len(parts)
        return torch.stack(logits)


def drawn(length: int, vocabulary: int, seed: int = 3) -> list[int]:
    """Token ids."""
    return torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def logits_of(rows: Rows, vocabulary: int, is_native: bool = True) -> torch.Tensor:
    """A prompt of 20 tokens, then 6 single ones; [7, vocabulary]."""
    tokens, step = drawn(26, vocabulary), rows.runner.step
    rows.runner.step = step if is_native else None
    found = [rows.prefill(0, tokens[:20], 0, 20)]
    found += [rows.decode([tokens[place]], [place])[0] for place in range(20, 26)]
    rows.runner.step = step
    return torch.stack([one for one in found if one is not None])


def error_of(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())
