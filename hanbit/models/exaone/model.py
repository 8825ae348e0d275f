"""EXAONE 4.0 (LG AI Research, arXiv 2507.11407): Llama's parts with norms behind attention and MLP; in a model with
windows the layers that see all know no positions.
"""

import torch

from hanbit.config.model import ExaoneConfig
from hanbit.models.layers.attention import llama_attention
from hanbit.models.layers.block import EndNormBlock
from hanbit.models.layers.decoder import Decoder
from hanbit.models.layers.mlp import GatedMLP
from hanbit.models.layers.norm import RMSNorm
from hanbit.models.layers.rotary import Rotation, rotation_at


class Exaone(Decoder):
    config: ExaoneConfig

    def __init__(self, config: ExaoneConfig) -> None:
        blocks = [_block(config, index) for index in range(config.layers)]
        super().__init__(config, list(blocks), RMSNorm(config.hidden, config.norm_epsilon))

    def rotation(self, positions: torch.Tensor) -> Rotation:
        return rotation_at(positions, self.config)

    def rotation_of(self, index: int, rotation: Rotation) -> Rotation | None:
        has_windows = self.config.sliding_window is not None
        return None if has_windows and self.config.is_full(index) else rotation


def _block(config: ExaoneConfig, index: int) -> EndNormBlock:
    assert isinstance(config.inner, int)
    return EndNormBlock(
        attention=llama_attention(config, sliding_window=config.window_of(index)),
        attention_end_norm=RMSNorm(config.hidden, config.norm_epsilon),
        mlp=GatedMLP(config.hidden, config.inner, config.mlp_bias),
        mlp_end_norm=RMSNorm(config.hidden, config.norm_epsilon),
    )
