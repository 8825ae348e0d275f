"""GPT-2 (Radford et al., 2019): learned positions, LayerNorm before each part, GELU, biases everywhere."""

import torch
from torch import nn

from hanbit.config.model import GPTConfig
from hanbit.models.layers.attention import gpt_attention
from hanbit.models.layers.block import Block
from hanbit.models.layers.decoder import Decoder
from hanbit.models.layers.mlp import PlainMLP, gelu_tanh


class GPT(Decoder):
    config: GPTConfig

    def __init__(self, config: GPTConfig) -> None:
        blocks = [_block(config) for _ in range(config.layers)]
        super().__init__(config, list(blocks), nn.LayerNorm(config.hidden, config.norm_epsilon))
        self.position_embedding = nn.Embedding(config.context, config.hidden)

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens) + self.position_embedding(positions)


def _block(config: GPTConfig) -> Block:
    assert isinstance(config.inner, int)
    return Block(
        attention_norm=nn.LayerNorm(config.hidden, config.norm_epsilon),
        attention=gpt_attention(config),
        mlp_norm=nn.LayerNorm(config.hidden, config.norm_epsilon),
        mlp=PlainMLP(config.hidden, config.inner, bias=True, activation=gelu_tanh),
    )
