"""Change a loaded model's matrices for the engine's work, one token at a time; what it computes stays the same.

Two changes, both at load:

    joined   query, key and value become one matrix, gate and up another: two calls a layer instead of five
    turned   on a CPU every matrix lies in memory by its input features. A product with one row then adds up columns
             and reads the weights at 25-30 GB/s; row by row it is 18 GB/s (two cores, AVX2, 23-28 GB/s of memory)
"""

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.models.layers.attention import Attention, Function
from hanbit.models.layers.decoder import Block, Decoder
from hanbit.models.layers.mlp import GatedMLP
from hanbit.models.layers.rotary import Rotation, rotate


def fuse(model: Decoder) -> Decoder:
    """The model itself, its layers replaced; it cannot be trained or saved any more."""
    for block in model.layers.values():
        assert isinstance(block, Block)
        if isinstance(block.attention, Attention):
            block.attention = JoinedAttention(block.attention)
        if isinstance(block.mlp, GatedMLP):
            block.mlp = JoinedGatedMLP(block.mlp)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.device.type == "cpu":
            _turn(module.weight)
    return model


class JoinedAttention(nn.Module):
    """Attention whose query, key and value come from one product, and whose two rotations are one."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.head_dim = attention.head_dim
        self.scale, self.sliding_window = attention.scale, attention.sliding_window
        self.heads = attention.query.out_features // self.head_dim
        self.key_value_heads = attention.key.out_features // self.head_dim
        self.projection = _joined(attention.query, attention.key, attention.value)
        self.output = attention.output
        self.has_head_norms = attention.has_head_norms
        if attention.has_head_norms:
            self.query_norm, self.key_norm = attention.query_norm, attention.key_norm

    def forward(self, hidden: torch.Tensor, rotation: Rotation | None, function: Function) -> torch.Tensor:
        """hidden [..., tokens, hidden] -> the same shape."""
        heads = self.projection(hidden).unflatten(-1, (-1, self.head_dim))
        turned, v = heads.split((self.heads + self.key_value_heads, self.key_value_heads), dim=-2)
        if self.has_head_norms:
            q, k = turned.split((self.heads, self.key_value_heads), dim=-2)
            turned = torch.cat((self.query_norm(q), self.key_norm(k)), dim=-2)
        if rotation is not None:
            turned = rotate(turned, rotation)
        q, k = turned.split((self.heads, self.key_value_heads), dim=-2)
        return self.output(function(self, q, k, v).flatten(-2))


class JoinedGatedMLP(nn.Module):
    def __init__(self, mlp: GatedMLP) -> None:
        super().__init__()
        self.projection = _joined(mlp.gate, mlp.up)
        self.down = mlp.down

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gate, up = self.projection(hidden).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def _joined(*parts: nn.Linear) -> nn.Linear:
    """One layer whose output is the outputs of the parts, side by side."""
    has_bias = parts[0].bias is not None
    joined = nn.Linear(1, 1, bias=has_bias, device="meta")
    joined.in_features, joined.out_features = parts[0].in_features, sum(part.out_features for part in parts)
    joined.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
    if has_bias:
        joined.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
    return joined


def _turn(weight: nn.Parameter) -> None:
    """Same shape and numbers, other strides; the embedding reads such rows as well (0.6 ms for 512 tokens)."""
    if weight.is_contiguous():
        weight.data = weight.data.t().contiguous().t()
