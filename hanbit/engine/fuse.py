"""Rearrange a loaded model's matrices for the engine; what it computes stays the same.

Query, key and value become one matrix, gate and up another: two products a layer instead of five. On a CPU matrices
are laid out in panels (panels.py). `models/` knows nothing of it: layers are replaced by ones with the same face.
"""

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.engine.panels import PanelEmbedding, PanelLinear
from hanbit.models.layers.attention import Attention, Function
from hanbit.models.layers.decoder import Block, Decoder
from hanbit.models.layers.mlp import GatedMLP, GeluMLP
from hanbit.models.layers.rotary import Rotation, rotate


def fuse(model: Decoder) -> Decoder:
    """The model itself, its layers replaced one by one; it can no longer be trained or saved."""
    is_tied = model.output.weight is model.embedding.weight
    for block in model.layers.values():
        assert isinstance(block, Block)
        if isinstance(block.attention, Attention):
            block.attention = JoinedAttention(block.attention)
        if isinstance(block.mlp, GatedMLP):
            block.mlp = JoinedGatedMLP(block.mlp)
        if isinstance(block.mlp, GeluMLP):
            block.mlp.up, block.mlp.down = _matrix(block.mlp.up), _matrix(block.mlp.down)  # type: ignore[assignment]
    model.output = _matrix(model.output)  # type: ignore[assignment]
    if is_tied and isinstance(model.output, PanelLinear):
        model.embedding = PanelEmbedding(model.output)
    return model


class JoinedAttention(nn.Module):
    """Attention whose query, key and value come from one product, and whose two rotations are one."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.head_dim = attention.head_dim
        self.scale, self.sliding_window = attention.scale, attention.sliding_window
        self.heads = attention.query.out_features // self.head_dim
        self.key_value_heads = attention.key.out_features // self.head_dim
        self.projection = _matrix(attention.query, attention.key, attention.value)
        self.output = _matrix(attention.output)
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
    """down(silu(gate(x)) * up(x)) with gate and up from one product."""

    def __init__(self, mlp: GatedMLP) -> None:
        super().__init__()
        self.projection = _matrix(mlp.gate, mlp.up)
        self.down = _matrix(mlp.down)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gate, up = self.projection(hidden).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


def _matrix(*parts: nn.Linear) -> nn.Module:
    """The parts side by side as one layer, laid out for where they are."""
    weight = parts[0].weight
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        return PanelLinear(*parts)
    if len(parts) == 1:
        return parts[0]
    joined = nn.Linear(weight.shape[1], sum(part.out_features for part in parts), parts[0].bias is not None, "meta")
    joined.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
    if parts[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
    return joined
