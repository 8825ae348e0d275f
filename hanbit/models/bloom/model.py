"""BLOOM (arXiv 2211.05100): GPT whose heads look back with slopes of their own (ALiBi) in place of positions, and whose
embedding is normed.
"""

import torch
from torch import nn

from hanbit.config.model import BloomConfig
from hanbit.models.layers.alibi import slopes_of
from hanbit.models.layers.attention import gpt_attention
from hanbit.models.layers.block import Block
from hanbit.models.layers.decoder import Decoder
from hanbit.models.layers.mlp import ACTIVATIONS, PlainMLP


class Bloom(Decoder):
    config: BloomConfig

    def __init__(self, config: BloomConfig) -> None:
        blocks = [_block(config) for _ in range(config.layers)]
        super().__init__(config, list(blocks), _norm(config))
        self.embedding_norm = _norm(config)

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.embedding_norm(self.embedding(tokens))


def _block(config: BloomConfig) -> Block:
    assert isinstance(config.inner, int)
    return Block(
        attention_norm=_norm(config),
        attention=gpt_attention(config, slopes_of(config.heads)),
        mlp_norm=_norm(config),
        mlp=PlainMLP(config.hidden, config.inner, bias=True, activation=ACTIVATIONS["gelu_tanh"]),
    )


def _norm(config: BloomConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden, config.norm_epsilon)
