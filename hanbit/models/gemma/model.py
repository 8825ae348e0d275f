"""Gemma (arXiv 2403.08295), Gemma 2 (arXiv 2408.00118), Gemma 3's language model (arXiv 2503.19786).

Llama's blocks with gated GELU, norms whose weight counts from one, scaled embeddings; from 2 on norms on both sides
and layers of two kinds.
"""

import torch
from torch import nn

from hanbit.config.model import GemmaConfig
from hanbit.models.layers.attention import llama_attention
from hanbit.models.layers.block import Block, SandwichBlock
from hanbit.models.layers.decoder import Decoder
from hanbit.models.layers.mlp import ACTIVATIONS, GatedMLP
from hanbit.models.layers.norm import ShiftedRMSNorm
from hanbit.models.layers.rotary import Rotation, rotation_at


class Gemma(Decoder):
    config: GemmaConfig

    def __init__(self, config: GemmaConfig) -> None:
        blocks = [_block(config, index) for index in range(config.layers)]
        super().__init__(config, list(blocks), _norm(config))

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(tokens)
        return hidden * torch.tensor(self.config.hidden**0.5, dtype=hidden.dtype)  # rounded as the hidden state is

    def rotation(self, positions: torch.Tensor) -> tuple[Rotation, Rotation]:
        """Of layers that see all, and of those with a window."""
        config, base = self.config, self.config.window_rotary_base
        everywhere = rotation_at(positions, config)
        if base is None:
            return everywhere, everywhere
        unstretched = config.model_copy(update={"rotary_base": base, "rotary_scaling": None})
        return everywhere, rotation_at(positions, unstretched)

    def rotation_of(self, index: int, rotation: tuple[Rotation, Rotation]) -> Rotation:
        return rotation[0 if self.config.is_full(index) else 1]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits, cap = super().head(hidden), self.config.logit_cap
        return logits if cap is None else (logits / cap).tanh() * cap


def _block(config: GemmaConfig, index: int) -> Block:
    assert isinstance(config.inner, int)
    scale = None if config.query_width is None else config.query_width**-0.5
    mlp = GatedMLP(config.hidden, config.inner, bias=False, activation=ACTIVATIONS["gelu_tanh"])
    attention = llama_attention(
        config,
        sliding_window=config.window_of(index),
        head_norm=ShiftedRMSNorm,
        scale=scale,
        score_cap=config.score_cap,
    )
    if not config.end_norms:
        return Block(attention_norm=_norm(config), attention=attention, mlp_norm=_norm(config), mlp=mlp)
    return SandwichBlock(
        attention_norm=_norm(config),
        attention=attention,
        attention_end_norm=_norm(config),
        mlp_norm=_norm(config),
        mlp=mlp,
        mlp_end_norm=_norm(config),
    )


def _norm(config: GemmaConfig) -> nn.Module:
    return ShiftedRMSNorm(config.hidden, config.norm_epsilon)
