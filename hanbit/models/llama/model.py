"""Llama (Touvron et al., arXiv 2302.13971) and its relatives Mistral, Qwen2, Qwen3, SmolLM2."""

import torch

from hanbit.config.model import LlamaConfig
from hanbit.models.layers.attention import llama_attention
from hanbit.models.layers.block import Block
from hanbit.models.layers.decoder import Decoder
from hanbit.models.layers.mlp import GatedMLP
from hanbit.models.layers.norm import RMSNorm
from hanbit.models.layers.rotary import Rotation, rotation_at


class Llama(Decoder):
    config: LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        blocks = [_block(config) for _ in range(config.layers)]
        super().__init__(config, list(blocks), RMSNorm(config.hidden, config.norm_epsilon))

    def rotation(self, positions: torch.Tensor) -> Rotation:
        return rotation_at(positions, self.config)


def _block(config: LlamaConfig) -> Block:
    assert isinstance(config.inner, int)
    return Block(
        attention_norm=RMSNorm(config.hidden, config.norm_epsilon),
        attention=llama_attention(config),
        mlp_norm=RMSNorm(config.hidden, config.norm_epsilon),
        mlp=GatedMLP(config.hidden, config.inner, config.mlp_bias),
    )
