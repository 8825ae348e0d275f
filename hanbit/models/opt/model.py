"""OPT (Zhang et al., arXiv 2205.01068): GPT with ReLU, whose positions are counted from two. Galactica has GELU."""

import torch
from torch import nn

from hanbit.config.model import OPTConfig
from hanbit.models.layers.attention import gpt_attention
from hanbit.models.layers.block import Block
from hanbit.models.layers.decoder import Decoder
from hanbit.models.layers.embedding import embedding_of
from hanbit.models.layers.mlp import ACTIVATIONS, PlainMLP

FIRST_POSITION = 2  # the rows before it were for padding, and are in the files


class OPT(Decoder):
    config: OPTConfig

    def __init__(self, config: OPTConfig) -> None:
        blocks = [_block(config) for _ in range(config.layers)]
        super().__init__(config, list(blocks), nn.LayerNorm(config.hidden, config.norm_epsilon))
        self.position_embedding = embedding_of(FIRST_POSITION + config.context, config.hidden)

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens) + self.position_embedding(positions + FIRST_POSITION)


def _block(config: OPTConfig) -> Block:
    assert isinstance(config.inner, int)
    return Block(
        attention_norm=nn.LayerNorm(config.hidden, config.norm_epsilon),
        attention=gpt_attention(config),
        mlp_norm=nn.LayerNorm(config.hidden, config.norm_epsilon),
        mlp=PlainMLP(config.hidden, config.inner, bias=True, activation=ACTIVATIONS[config.activation]),
    )
