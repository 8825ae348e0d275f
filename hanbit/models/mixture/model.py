"""Mixtral (Jiang et al., arXiv 2401.04088) and Qwen3-MoE (arXiv 2505.09388): Llama's blocks with experts for an MLP."""

import torch
from torch import nn

from hanbit.config.model import MixtureConfig
from hanbit.models.layers.attention import llama_attention
from hanbit.models.layers.block import Block
from hanbit.models.layers.decoder import Decoder
from hanbit.models.layers.experts import MixtureMLP
from hanbit.models.layers.mlp import GatedMLP
from hanbit.models.layers.norm import RMSNorm
from hanbit.models.layers.rotary import Rotation, rotation_at


class Mixture(Decoder):
    config: MixtureConfig

    def __init__(self, config: MixtureConfig) -> None:
        blocks = [_block(config, index) for index in range(config.layers)]
        super().__init__(config, list(blocks), RMSNorm(config.hidden, config.norm_epsilon))

    def rotation(self, positions: torch.Tensor) -> Rotation:
        return rotation_at(positions, self.config)


def _block(config: MixtureConfig, index: int) -> Block:
    return Block(
        attention_norm=RMSNorm(config.hidden, config.norm_epsilon),
        attention=llama_attention(config),
        mlp_norm=RMSNorm(config.hidden, config.norm_epsilon),
        mlp=_experts(config) if config.is_sparse(index) else _dense(config),
    )


def _experts(config: MixtureConfig) -> nn.Module:
    assert isinstance(config.expert_inner, int)
    return MixtureMLP(
        config.hidden, config.expert_inner, config.experts, config.experts_per_token, config.normalize_weights
    )


def _dense(config: MixtureConfig) -> nn.Module:
    assert isinstance(config.inner, int)
    return GatedMLP(config.hidden, config.inner, bias=False)
