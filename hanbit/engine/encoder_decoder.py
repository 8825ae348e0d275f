"""A T5 in the engine: its encoder reads a prompt once, its decoder writes the answer in the paged cache.

Keys and values of the cross attention, what the decoder's layers look at in the encoder's output, are kept for as long
as the answer is worked on, outside the cache's blocks: layers x 2 x heads x head_dim numbers a token of the prompt.
"""

from collections import OrderedDict
from collections.abc import Collection
from collections.abc import Sequence as Items
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.engine.attend import PagedAttend, kind_of
from hanbit.engine.encoder_prompt import EncoderPrompt
from hanbit.engine.fuse import JoinedAttention, joined_matrix, joined_mlp
from hanbit.engine.kv_cache import KVCache
from hanbit.engine.padded import batches, padded, unless_all
from hanbit.engine.parts import Part
from hanbit.engine.quick import quick_norm
from hanbit.engine.runner import Runner, cache_shape_of, rows_of, wanted_rows
from hanbit.models.layers.attend import encoder_decoder
from hanbit.models.layers.attention import Attention
from hanbit.models.layers.relative import RelativeBias
from hanbit.models.t5.model import T5, DecoderBlock

Crossed = list[tuple[torch.Tensor, torch.Tensor]]  # of each decoder layer, keys and values [heads, tokens, head_dim]


class JoinedT5(nn.Module):
    """A loaded T5 rearranged: the decoder's matrices are joined as other families' (fuse.py), the encoder stays."""

    def __init__(self, model: T5) -> None:
        super().__init__()
        self.config = model.config
        blocks = list(model.layers.values())
        self.embedding, self.encoder_bias, self.encoder_norm = model.embedding, model.encoder_bias, model.encoder_norm
        self.encoder = nn.ModuleList(blocks[: model.config.layers])
        decoder = [_JoinedDecoderBlock(block, model.decoder_bias) for block in blocks[model.config.layers :]]
        self.layers = nn.ModuleDict({str(index): block for index, block in enumerate(decoder)})
        self.norm, self.output = quick_norm(model.norm), model.output

    def encode(self, tokens: torch.Tensor, present: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """tokens, present [texts, tokens] -> of each decoder layer keys and values [texts, heads, tokens, head_dim]."""
        sees_all, _ = encoder_decoder(unless_all(present))(0)
        function = partial(sees_all, bias=self.encoder_bias(tokens.shape[1], tokens.shape[1]))
        hidden = self.embedding(tokens)
        for block in self.encoder:
            hidden = block(hidden, None, function)
        hidden = self.encoder_norm(hidden)
        return [block.crossed(hidden) for block in self.layers.values()]  # type: ignore[operator]

    def trunk(self, tokens: torch.Tensor, attend: PagedAttend, cross: "CrossStep") -> torch.Tensor:
        """tokens [tokens, 1] of the decoder -> [tokens, 1, hidden]."""
        hidden = self.embedding(tokens)
        for index, block in enumerate(self.layers.values()):
            hidden = block(hidden, attend(index), partial(cross, index))
        return hidden

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., hidden] -> logits [..., vocabulary]."""
        scale = self.config.hidden**-0.5 if self.config.scaled_output else 1.0
        return self.output(self.norm(hidden) * scale)


class _JoinedDecoderBlock(nn.Module):
    def __init__(self, block: nn.Module, relative: RelativeBias) -> None:
        super().__init__()
        assert isinstance(block, DecoderBlock)
        self.attention_norm, self.attention = quick_norm(block.attention_norm), JoinedAttention(block.attention)
        self.attention.relative = relative
        self.cross_norm, self.head_dim = quick_norm(block.cross_norm), block.cross_attention.head_dim
        cross: Attention = block.cross_attention
        self.key, self.value = cross.key, cross.value
        self.cross_query, self.cross_output = joined_matrix(cross.query), joined_matrix(cross.output)
        self.mlp_norm, self.mlp = quick_norm(block.mlp_norm), joined_mlp(block.mlp)

    def crossed(self, encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """encoded [texts, tokens, hidden] -> keys and values [texts, heads, tokens, head_dim]."""
        keys, values = (part(encoded).unflatten(-1, (-1, self.head_dim)) for part in (self.key, self.value))
        return keys.transpose(1, 2), values.transpose(1, 2)

    def forward(self, hidden: torch.Tensor, function: Any, cross: Any) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), None, function)
        q = self.cross_query(self.cross_norm(hidden)).unflatten(-1, (-1, self.head_dim))
        hidden = hidden + self.cross_output(cross(q).flatten(-2))
        return hidden + self.mlp(self.mlp_norm(hidden), function)


class CrossStep:
    """A step's rows before what the encoder gave: those of one prompt (a search's beams) look at it in one call."""

    def __init__(
        self, rows: dict[EncoderPrompt, list[int]], crossed: dict[EncoderPrompt, Crossed], device: torch.device
    ) -> None:
        self._groups = [(torch.tensor(places, device=device), crossed[prompt]) for prompt, places in rows.items()]

    def __call__(self, layer: int, q: torch.Tensor) -> torch.Tensor:
        """q [tokens, 1, heads, head_dim]; gives as q. T5 scales no scores."""
        output = torch.empty_like(q)
        for rows, crossed in self._groups:
            keys, values = crossed[layer]
            seen = F.scaled_dot_product_attention(q[rows, 0].transpose(0, 1), keys, values, scale=1.0)
            output[rows, 0] = seen.transpose(0, 1)
        return output


class EncoderDecoderRunner(Runner):
    """A Runner of a JoinedT5. `most_prompts`: of so many prompts at most it is kept what the encoder gave; what was
    looked at longest ago is given up, and computed anew when its answer goes on. `most_tokens`: read by the encoder at
    once."""

    def __init__(self, model: JoinedT5, num_blocks: int, block_size: int, most_prompts: int, most_tokens: int) -> None:
        self.t5, self._most_prompts, self._most_tokens = model, most_prompts, most_tokens
        shape = cache_shape_of(model)
        self.device = shape.device
        self.cache = KVCache(shape, num_blocks, block_size)
        self.attend = PagedAttend(self.cache, (kind_of(block.attention) for block in model.layers.values()))
        self.step = None
        self._crossed: OrderedDict[EncoderPrompt, Crossed] = OrderedDict()

    @property
    def num_prompts(self) -> int:
        """Prompts of which it is kept what the encoder gave."""
        return len(self._crossed)

    def forget(self, request: Any) -> None:
        self._crossed.pop(request.encoder_prompt, None)

    def _flat(self, parts: Items[Part[Any]]) -> torch.Tensor:
        """Logits [rows that are wanted, vocabulary]."""
        self.attend.begin(parts)
        rows = _by_prompt(parts)
        self._read(rows)
        tokens, _ = rows_of(parts)
        hidden = self.t5.trunk(self._column(tokens), self.attend, CrossStep(rows, self._crossed, self.device))
        wanted = wanted_rows(parts)
        return self.t5.head(hidden[wanted, 0]) if wanted else hidden.new_empty(0)

    def _read(self, needed: Collection[EncoderPrompt]) -> None:
        """The encoder's part of those of which nothing is kept."""
        new = [prompt for prompt in needed if prompt not in self._crossed]
        for places in batches([len(prompt.tokens) for prompt in new], self._most_tokens):
            texts = [new[place].tokens for place in places]
            layers = self.t5.encode(*padded(texts, self.device))
            for row, place in enumerate(places):
                length = len(texts[row])
                kept = [tuple(one[row, :, :length].clone() for one in layer) for layer in layers]
                self._crossed[new[place]] = kept  # type: ignore[assignment]
        for prompt in needed:
            self._crossed.move_to_end(prompt)
        while len(self._crossed) > max(self._most_prompts, len(needed)):
            self._crossed.popitem(last=False)


_Rows = dict[EncoderPrompt, list[int]]  # places of the rows that look at each prompt


def _by_prompt(parts: Items[Part[Any]]) -> _Rows:
    found: _Rows = {}
    first = 0
    for part in parts:
        found.setdefault(part.request.encoder_prompt, []).extend(range(first, first + part.num_rows))
        first += part.num_rows
    return found
