"""One model and one cache: feed parts of sequences, get logits. Every step runs without autograd."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch

from hanbit.engine.adapters import JoinedAdapter, of_rows
from hanbit.engine.attend import PagedAttend, kind_of
from hanbit.engine.fuse import JoinedAttention
from hanbit.engine.kv_cache import CacheShape, KVCache
from hanbit.engine.native_step import NativeStep, fits
from hanbit.engine.parts import Part
from hanbit.models.layers.decoder import Decoder

KV_CACHE_DTYPES = ("auto", "int8")  # auto: as the model computes


class Fed(Protocol):
    """A sequence as the model needs it."""

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def reads_all(self) -> bool: ...

    @property
    def adapter(self) -> JoinedAdapter | None: ...


class Runner:
    """`model` is a fused one (fuse.py). Not safe between threads. `kv_cache_dtype`: one of KV_CACHE_DTYPES."""

    def __init__(self, model: Decoder, num_blocks: int, block_size: int, kv_cache_dtype: str = "auto") -> None:
        self.model = model
        shape = cache_shape_of(model, kv_cache_dtype)
        self.device = shape.device
        self.cache = KVCache(shape, num_blocks, block_size)
        attentions = map(_attention_of, model.layers.values())
        self.attend = PagedAttend(self.cache, map(kind_of, attentions))
        self.step = NativeStep(model, self.cache) if fits(model) else None

    @torch.inference_mode()
    def feed(self, parts: Sequence[Part[Fed]]) -> list[torch.Tensor | None]:
        """Write the parts' keys and values; logits [vocabulary] of each that ends where its sequence ends now, and
        [tokens, vocabulary] of each whose request `reads_all`; [1 + draft, vocabulary] of each with a draft: those
        behind its last token and behind each of the draft's."""
        logits: list[torch.Tensor | None] = [None] * len(parts)
        native = [index for index, part in enumerate(parts) if self._is_native(part)]
        others = sorted({*range(len(parts))} - {*native})
        for indices, feed in ((native, self._natively), (others, self._flat)):
            fed = [parts[index] for index in indices]
            if not fed:
                continue
            for index, rows in zip(indices, feed(fed).split([_num_wanted(part) for part in fed]), strict=True):
                if len(rows):
                    has_many = parts[index].request.reads_all or parts[index].draft
                    logits[index] = rows if has_many else rows[0]
        return logits

    def forget(self, request: Any) -> None:
        """Nobody wants its answer any more. Beside the cache nothing is kept of it here."""

    def _is_native(self, part: Part[Fed]) -> bool:
        return self.step is not None and part.request.adapter is None and self.step.takes(part.num_rows)

    def _natively(self, parts: Sequence[Part[Fed]]) -> torch.Tensor:
        """Logits [rows that are wanted, vocabulary]."""
        assert self.step is not None
        tokens, positions = rows_of(parts)
        blocks = [part.blocks for part in parts for _ in range(part.num_rows)]
        return self.step(tokens, positions, blocks, wanted_rows(parts))

    def _flat(self, parts: Sequence[Part[Fed]]) -> torch.Tensor:
        """Logits [rows that are wanted, vocabulary]."""
        self.attend.begin(parts)
        self.attend.adapters = of_rows(
            [part.request.adapter for part in parts for _ in range(part.num_rows)], self.device
        )
        tokens, positions = map(self._column, rows_of(parts))
        hidden = self.model.trunk(self.model.embed(tokens, positions), positions, self.attend)
        wanted = wanted_rows(parts)
        return self.model.head(hidden[wanted, 0]) if wanted else hidden.new_empty(0)

    def _column(self, numbers: list[int]) -> torch.Tensor:
        """[tokens, 1]"""
        return torch.tensor(numbers, device=self.device).unsqueeze(1)


def cache_shape_of(model: Any, kv_cache_dtype: str = "auto") -> CacheShape:
    """Of a fused model."""
    weight, attention = model.norm.weight, _attention_of(next(iter(model.layers.values())))
    assert isinstance(weight, torch.Tensor)
    return CacheShape(
        len(model.layers),
        attention.key_value_heads,
        attention.head_dim,
        weight.dtype,
        weight.device,
        kv_cache_dtype == "int8",
    )


def _is_whole(part: Part[Fed]) -> bool:
    return part.end == len(part.request.tokens)


def rows_of(parts: Sequence[Part[Fed]]) -> tuple[list[int], list[int]]:
    """Tokens and positions, part by part."""
    tokens = [token for part in parts for token in (*part.request.tokens[part.start : part.end], *part.draft)]
    return tokens, [position for part in parts for position in range(part.start, part.last)]


def _num_wanted(part: Part[Fed]) -> int:
    """Of how many of its last rows logits are wanted."""
    return part.end - part.start if part.request.reads_all else int(_is_whole(part)) + len(part.draft)


def wanted_rows(parts: Sequence[Part[Fed]]) -> list[int]:
    """Places of those rows among the rows of all parts."""
    ends = accumulate(part.num_rows for part in parts)
    return [row for part, end in zip(parts, ends, strict=True) for row in range(end - _num_wanted(part), end)]


def _attention_of(block: torch.nn.Module) -> JoinedAttention:
    assert isinstance(block.attention, JoinedAttention)
    return block.attention
