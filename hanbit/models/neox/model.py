"""GPT-NeoX (Black et al., arXiv 2204.06745; Pythia, Polyglot-Ko), GPT-J (Wang and Komatsuzaki, 2021), Phi 1 to 2 (Li et
al., arXiv 2309.05463): LayerNorm, the first features of each head rotated, attention and MLP side by side.
"""

import torch
from torch import nn

from hanbit.config.model import NeoXConfig
from hanbit.models.layers.attention import Attention
from hanbit.models.layers.block import Block, ParallelBlock, SharedNormBlock
from hanbit.models.layers.decoder import Decoder
from hanbit.models.layers.mlp import ACTIVATIONS, PlainMLP
from hanbit.models.layers.rotary import RotaryPairs, Rotation, rotation_at


class NeoX(Decoder):
    config: NeoXConfig

    def __init__(self, config: NeoXConfig) -> None:
        blocks = [_block(config) for _ in range(config.layers)]
        super().__init__(config, list(blocks), _norm(config), config.output_bias)

    def rotation(self, positions: torch.Tensor) -> Rotation:
        return rotation_at(positions, self.config)


def _block(config: NeoXConfig) -> Block:
    parts: dict[str, nn.Module] = {"attention_norm": _norm(config), "attention": _attention(config)}
    mlp = _mlp(config)
    if config.shared_norm:
        return SharedNormBlock(**parts, mlp=mlp)
    kind = ParallelBlock if config.parallel else Block
    return kind(**parts, mlp_norm=_norm(config), mlp=mlp)


def _attention(config: NeoXConfig) -> Attention:
    bias = config.attention_bias
    pairs: RotaryPairs = "neighbours" if config.rotary_neighbours else "halves"
    return Attention(
        config.hidden,
        config.heads,
        config.heads,
        config.head_dim,
        bias=bias,
        output_bias=bias,
        rotary_pairs=pairs,
    )


def _mlp(config: NeoXConfig) -> PlainMLP:
    assert isinstance(config.inner, int)
    return PlainMLP(config.hidden, config.inner, bias=True, activation=ACTIVATIONS[config.activation])


def _norm(config: NeoXConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden, config.norm_epsilon)
