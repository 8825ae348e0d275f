"""T5 (Raffel et al., arXiv 1910.10683), T5 1.1 and mT5: an encoder reads, a decoder writes. Scores are not scaled, and
one table of relative positions serves all layers of a stack.

All blocks stand in one row, `layers`: the encoder's, then the decoder's, so that pipeline stages cut it anywhere. What
travels between blocks is (hidden,) in the encoder and (hidden, what the encoder gave) in the decoder.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.config.model import T5Config
from hanbit.models.layers.attention import Attention, Function
from hanbit.models.layers.block import Block
from hanbit.models.layers.cross_attention import CrossAttention
from hanbit.models.layers.embedding import embedding_of
from hanbit.models.layers.mlp import GatedMLP, PlainMLP, gelu_tanh
from hanbit.models.layers.norm import RMSNorm
from hanbit.models.layers.relative import RelativeBias

Carried = tuple[torch.Tensor, ...]


class T5(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        assert isinstance(config.vocabulary, int)
        assert isinstance(config.decoder_layers, int)
        self.config = config
        buckets, distance = config.position_buckets, config.position_distance
        self.embedding = embedding_of(config.vocabulary, config.hidden)
        self.encoder_bias = RelativeBias(config.heads, buckets, distance, is_bidirectional=True)
        blocks: list[nn.Module] = [_encoder_block(config) for _ in range(config.layers)]
        blocks += [DecoderBlock(config) for _ in range(config.decoder_layers)]
        self.layers = nn.ModuleDict({str(index): block for index, block in enumerate(blocks)})
        self.encoder_norm = _norm(config)
        self.decoder_bias = RelativeBias(config.heads, buckets, distance, is_bidirectional=False)
        self.norm = _norm(config)
        self.output = nn.Linear(config.hidden, config.vocabulary, bias=False)
        self.tie()

    def tie(self) -> None:
        """Make the output projection share the embedding's weight again, where the config says so and both are here."""
        if self.config.tied and hasattr(self, "embedding") and hasattr(self, "output"):
            self.output.weight = self.embedding.weight

    def advance(self, carried: Carried, batch: dict[str, torch.Tensor], attend: Callable[[int], Any]) -> Carried:
        """The blocks that are here. batch: `tokens` [batch, tokens], `decoder_tokens` [batch, other tokens], int64.

        Read where the first block of a stack is. attend: see `layers.attend.encoder_decoder`.
        """
        biases = {name: getattr(self, name)(len_, len_) for name, len_ in self._lengths(batch).items()}
        for key, block in self.layers.items():
            index = int(key)
            if index == 0:
                carried = (self.embedding(batch["tokens"]),)
            if index == self.config.layers:
                carried = (self.embedding(batch["decoder_tokens"]), self.encoder_norm(carried[0]))
            all_read, those_before = attend(index)
            if index < self.config.layers:
                carried = (block(carried[0], None, partial(all_read, bias=biases["encoder_bias"])),)
            else:
                hidden = block(*carried, partial(those_before, bias=biases["decoder_bias"]), all_read)
                carried = (hidden, carried[1])
        return carried

    def _lengths(self, batch: dict[str, torch.Tensor]) -> dict[str, int]:
        """Of the tables that this stage's blocks need, how many tokens they are for."""
        lengths = {"encoder_bias": "tokens", "decoder_bias": "decoder_tokens"}
        return {name: batch[key].shape[1] for name, key in lengths.items() if hasattr(self, name)}

    def final(self, hidden: torch.Tensor) -> torch.Tensor:
        """The decoder's hidden state as the output projection takes it, [..., hidden]."""
        hidden = self.norm(hidden)
        return hidden * self.config.hidden**-0.5 if self.config.scaled_output else hidden

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., hidden] -> logits [..., vocabulary]."""
        return self.output(self.final(hidden))


class DecoderBlock(nn.Module):
    """Attention, attention to the encoder, and MLP, each behind a norm and beside the residual stream."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention_norm, self.attention = _norm(config), _attention(config, Attention)
        self.cross_norm, self.cross_attention = _norm(config), _attention(config, CrossAttention)
        self.mlp_norm, self.mlp = _norm(config), _mlp(config)

    def forward(
        self, hidden: torch.Tensor, encoded: torch.Tensor, function: Function, to_encoder: Function
    ) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), None, function)
        hidden = hidden + self.cross_attention(self.cross_norm(hidden), encoded, to_encoder)
        return hidden + self.mlp(self.mlp_norm(hidden))


def _encoder_block(config: T5Config) -> Block:
    return Block(
        attention_norm=_norm(config),
        attention=_attention(config, Attention),
        mlp_norm=_norm(config),
        mlp=_mlp(config),
    )


def _norm(config: T5Config) -> RMSNorm:
    return RMSNorm(config.hidden, config.norm_epsilon)


def _attention(config: T5Config, kind: type[Attention]) -> Attention:
    assert isinstance(config.head_dim, int)
    return kind(config.hidden, config.heads, config.heads, config.head_dim, bias=False, output_bias=False, scale=1.0)


def _mlp(config: T5Config) -> nn.Module:
    assert isinstance(config.inner, int)
    if config.gated:
        return GatedMLP(config.hidden, config.inner, bias=False, activation=gelu_tanh)
    return PlainMLP(config.hidden, config.inner, bias=False, activation=F.relu)
