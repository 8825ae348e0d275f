"""Attention without the attending: projections and rotation here, how to attend is a function that is passed in.

Training passes a causal function, the engine one that reads and writes its cache (docs/models.md). Heads are counted
by -1 in reshapes, so that a rank with half of them runs the same code.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hanbit.config.model import DecoderConfig, LlamaConfig
from hanbit.models.layers.norm import RMSNorm
from hanbit.models.layers.rotary import RotaryPairs, Rotation, rotate

# function(layer, q, k, v): q [..., tokens, heads, head_dim], k and v [..., tokens, key_value_heads, head_dim];
# gives [..., tokens, heads, head_dim]
Function = Callable[..., torch.Tensor]
Attend = Callable[[int], Function]


class Attention(nn.Module):
    """What is constant for whoever attends:

    scale            of the scores
    sliding_window   tokens a query looks back, itself included; None: all earlier ones
    score_cap        scores become cap x tanh(score / cap) (Gemma 2); None: they stay
    alibi_slopes     of each head here: its scores fall by this for every token looked back; None: they do not
    rotary_pairs     "halves": feature i turns with i + width / 2, as in Llama's files; "neighbours": with i + 1
    """

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
        head_norm: type[RMSNorm] = RMSNorm,
        sliding_window: int | None = None,
        scale: float | None = None,
        score_cap: float | None = None,
        alibi_slopes: tuple[float, ...] | None = None,
        rotary_pairs: RotaryPairs = "halves",
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.scale = head_dim**-0.5 if scale is None else scale
        self.sliding_window = sliding_window
        self.score_cap, self.alibi_slopes, self.rotary_pairs = score_cap, alibi_slopes, rotary_pairs
        self.query = nn.Linear(hidden, heads * head_dim, bias=bias)
        self.key = nn.Linear(hidden, key_value_heads * head_dim, bias=bias)
        self.value = nn.Linear(hidden, key_value_heads * head_dim, bias=bias)
        self.output = nn.Linear(heads * head_dim, hidden, bias=output_bias)
        self.has_head_norms = head_norm_epsilon is not None
        if head_norm_epsilon is not None:
            self.query_norm = head_norm(head_dim, head_norm_epsilon)
            self.key_norm = head_norm(head_dim, head_norm_epsilon)

    def forward(self, hidden: torch.Tensor, rotation: Rotation | None, function: Function) -> torch.Tensor:
        """hidden [..., tokens, hidden] -> the same shape."""
        q = self.query(hidden).unflatten(-1, (-1, self.head_dim))
        k = self.key(hidden).unflatten(-1, (-1, self.head_dim))
        v = self.value(hidden).unflatten(-1, (-1, self.head_dim))
        if self.has_head_norms:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation, self.rotary_pairs), rotate(k, rotation, self.rotary_pairs)
        return self.output(function(self, q, k, v).flatten(-2))


def llama_attention(config: LlamaConfig, **constants: Any) -> Attention:
    """constants: of the layer, where they are not what all layers of the config have."""
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
        **{"sliding_window": config.sliding_window, **constants},
    )


def gpt_attention(config: DecoderConfig, alibi_slopes: tuple[float, ...] | None = None) -> Attention:
    heads, head_dim = config.heads, config.hidden // config.heads
    return Attention(config.hidden, heads, heads, head_dim, bias=True, output_bias=True, alibi_slopes=alibi_slopes)
