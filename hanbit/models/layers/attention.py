"""Attention without the attending: projections and rotation here, how to attend is a function that is passed in.

Training passes a causal function, the engine one that reads and writes its cache (docs/models.md). Heads are counted
by -1 in reshapes, so that a rank with half of them runs the same code.
"""

from collections.abc import Callable

import torch
from torch import nn

from hanbit.config.model import GPTConfig, LlamaConfig
from hanbit.models.layers.norm import RMSNorm
from hanbit.models.layers.rotary import Rotation, rotate

# function(layer, q, k, v): q [..., tokens, heads, head_dim], k and v [..., tokens, key_value_heads, head_dim];
# gives [..., tokens, heads, head_dim]
Function = Callable[..., torch.Tensor]
Attend = Callable[[int], Function]


class Attention(nn.Module):
    """`scale` and `sliding_window` are constants for whoever attends; None for the window means all earlier tokens."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        key_value_heads: int,
        head_dim: int,
        *,
        bias: bool,
        output_bias: bool,
        head_norm_epsilon: float | None = None,
        sliding_window: int | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.sliding_window = sliding_window
        self.query = nn.Linear(hidden, heads * head_dim, bias=bias)
        self.key = nn.Linear(hidden, key_value_heads * head_dim, bias=bias)
        self.value = nn.Linear(hidden, key_value_heads * head_dim, bias=bias)
        self.output = nn.Linear(heads * head_dim, hidden, bias=output_bias)
        self.has_head_norms = head_norm_epsilon is not None
        if head_norm_epsilon is not None:
            self.query_norm = RMSNorm(head_dim, head_norm_epsilon)
            self.key_norm = RMSNorm(head_dim, head_norm_epsilon)

    def forward(self, hidden: torch.Tensor, rotation: Rotation | None, function: Function) -> torch.Tensor:
        """hidden [..., tokens, hidden] -> the same shape."""
        q = self.query(hidden).unflatten(-1, (-1, self.head_dim))
        k = self.key(hidden).unflatten(-1, (-1, self.head_dim))
        v = self.value(hidden).unflatten(-1, (-1, self.head_dim))
        if self.has_head_norms:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return self.output(function(self, q, k, v).flatten(-2))


def llama_attention(config: LlamaConfig) -> Attention:
    assert isinstance(config.key_value_heads, int)
    assert isinstance(config.head_dim, int)
    return Attention(
        config.hidden,
        config.heads,
        config.key_value_heads,
        config.head_dim,
        bias=config.query_key_value_bias,
        output_bias=config.attention_output_bias,
        head_norm_epsilon=config.norm_epsilon if config.query_key_norm else None,
        sliding_window=config.sliding_window,
    )


def gpt_attention(config: GPTConfig) -> Attention:
    return Attention(
        config.hidden, config.heads, config.heads, config.hidden // config.heads, bias=True, output_bias=True
    )
