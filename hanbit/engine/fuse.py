"""Rearrange a loaded model's matrices for the engine; what it computes stays the same.

Query, key and value become one matrix, gate and up another: two products a layer instead of five. On a CPU matrices go
to native kernels (native.py); where there are none, they are laid out in panels (panels.py). `models/` knows nothing
of it: layers are replaced by ones with the same face.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from hanbit.engine.adapters import Place
from hanbit.engine.native import BlockLinear, NativeEmbedding, NativeLinear, gather
from hanbit.engine.panels import PanelEmbedding, PanelLinear
from hanbit.engine.quick import quick_norm, quick_rotate
from hanbit.kernels.library import native
from hanbit.models.layers.attention import Attention
from hanbit.models.layers.block import Block
from hanbit.models.layers.decoder import Decoder
from hanbit.models.layers.experts import Experts, MixtureMLP
from hanbit.models.layers.mlp import GatedMLP, PlainMLP
from hanbit.models.layers.relative import RelativeBias
from hanbit.models.layers.rotary import Rotation


class Function(Protocol):
    """What a joined layer is given in a step (attend.py)."""

    def __call__(self, layer: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor: ...
    def adapt(self, place: str, hidden: torch.Tensor, output: torch.Tensor) -> torch.Tensor: ...


def fuse(model: Decoder) -> Decoder:
    """The model itself, its layers replaced one by one; it can no longer be trained or saved."""
    is_tied = _is_tied(model)
    for index, block in model.layers.items():
        assert isinstance(block, Block)
        model.layers[index] = JoinedBlock(block)
    model.norm = quick_norm(model.norm)
    model.output = joined_matrix(model.output)  # type: ignore[assignment]
    if isinstance(model.embedding, BlockLinear):
        model.embedding = NativeEmbedding(model.output if is_tied else NativeLinear(model.embedding))  # type: ignore
    gather(model)
    if is_tied and isinstance(model.output, PanelLinear):
        model.embedding = PanelEmbedding(model.output)
    if is_tied and isinstance(model.output, NativeLinear) and isinstance(model.embedding, nn.Embedding):
        model.embedding.weight = nn.Parameter(model.output.weight, requires_grad=False)
    return model


def _is_tied(model: Decoder) -> bool:
    embedding, output = model.embedding, model.output
    if isinstance(embedding, BlockLinear) and isinstance(output, BlockLinear):
        return embedding.matrix is output.matrix
    is_plain = isinstance(embedding, nn.Embedding) and isinstance(output, nn.Linear)
    return is_plain and output.weight is embedding.weight


class JoinedBlock(nn.Module):
    """A block's flow over joined matrices; the MLP is handed the function as well. `places`: for adapters."""

    attention: "JoinedAttention"
    attention_norm: nn.Module
    mlp: nn.Module
    mlp_norm: nn.Module

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.places = _places(block)
        self._flow = type(block).flow
        assert isinstance(block.attention, Attention)
        for name, part in block.named_children():
            if name == "attention":
                self.attention = JoinedAttention(block.attention)
            elif name == "mlp":
                self.mlp = joined_mlp(part)
            else:
                setattr(self, name, quick_norm(part))

    def forward(self, hidden: torch.Tensor, rotation: Rotation | None, function: Function) -> torch.Tensor:
        def attention(normed: torch.Tensor) -> torch.Tensor:
            return self.attention(normed, rotation, function)

        return self._flow(self, hidden, attention, lambda normed: self.mlp(normed, function))  # type: ignore[arg-type]


class JoinedAttention(nn.Module):
    """Attention whose query, key and value come from one product, and whose two rotations are one."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.head_dim = attention.head_dim
        self.scale, self.sliding_window = attention.scale, attention.sliding_window
        self.score_cap, self.alibi_slopes = attention.score_cap, attention.alibi_slopes
        self.rotary_pairs = attention.rotary_pairs
        self.relative: RelativeBias | None = None  # numbers for distances that are added to scores (T5)
        self.heads = attention.query.out_features // self.head_dim
        self.key_value_heads = attention.key.out_features // self.head_dim
        self.projection = joined_matrix(attention.query, attention.key, attention.value)
        self.output = joined_matrix(attention.output)
        self.has_head_norms = attention.has_head_norms
        if attention.has_head_norms:
            self.query_norm, self.key_norm = quick_norm(attention.query_norm), quick_norm(attention.key_norm)

    def forward(self, hidden: torch.Tensor, rotation: Rotation | None, function: Function) -> torch.Tensor:
        """hidden [..., tokens, hidden] -> the same shape."""
        joined = function.adapt("attention.projection", hidden, self.projection(hidden))
        heads = joined.unflatten(-1, (-1, self.head_dim))
        turned, v = heads.split((self.heads + self.key_value_heads, self.key_value_heads), dim=-2)
        if self.has_head_norms:
            q, k = turned.split((self.heads, self.key_value_heads), dim=-2)
            turned = torch.cat((self.query_norm(q), self.key_norm(k)), dim=-2)
        if rotation is not None:
            turned = quick_rotate(turned, rotation, self.rotary_pairs)
        q, k = turned.split((self.heads, self.key_value_heads), dim=-2)
        seen = function(self, q, k, v).flatten(-2)
        return function.adapt("attention.output", seen, self.output(seen))


class JoinedGatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)) with gate and up from one product."""

    def __init__(self, mlp: GatedMLP) -> None:
        super().__init__()
        self.activation = mlp.activation
        self.projection = joined_matrix(mlp.gate, mlp.up)
        self.down = joined_matrix(mlp.down)

    def product(self, hidden: torch.Tensor) -> torch.Tensor:
        """Without adapters."""
        gate, up = self.projection(hidden).chunk(2, dim=-1)
        return self.down(self.activation(gate) * up)

    def forward(self, hidden: torch.Tensor, function: Function) -> torch.Tensor:
        gate, up = function.adapt("mlp.projection", hidden, self.projection(hidden)).chunk(2, dim=-1)
        inner = self.activation(gate) * up
        return function.adapt("mlp.down", inner, self.down(inner))


class JoinedPlainMLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, mlp: PlainMLP) -> None:
        super().__init__()
        self.activation = mlp.activation
        self.up, self.down = joined_matrix(mlp.up), joined_matrix(mlp.down)

    def forward(self, hidden: torch.Tensor, function: Function) -> torch.Tensor:
        inner = self.activation(function.adapt("mlp.projection", hidden, self.up(hidden)))
        return function.adapt("mlp.down", inner, self.down(inner))


class JoinedMixtureMLP(nn.Module):
    """A mixture of experts, each with gate and up from one product. Adapters do not reach into it."""

    def __init__(self, mlp: MixtureMLP) -> None:
        super().__init__()
        self.router = mlp.router
        self.experts = nn.ModuleList(JoinedGatedMLP(expert) for expert in _apart(mlp.experts))

    def forward(self, hidden: torch.Tensor, function: Function) -> torch.Tensor:
        """hidden [..., hidden] -> the same shape. Only experts that a token goes to are read."""
        rows, routing = hidden.flatten(0, -2), self.router(hidden.flatten(0, -2))
        output = torch.zeros_like(rows, dtype=torch.float32)
        for expert in routing.experts.unique().tolist():
            tokens, places = (routing.experts == expert).nonzero(as_tuple=True)
            found = self.experts[expert].product(rows[tokens])
            output.index_add_(0, tokens, found * routing.weights[tokens, places].unsqueeze(-1))
        return output.to(hidden.dtype).view_as(hidden)


def places_of(model: Decoder) -> list[dict[str, Place]]:
    """The joined matrices of each layer of a fused model."""
    return [block.places for block in model.layers.values() if isinstance(block, JoinedBlock)]


def joined_mlp(mlp: nn.Module) -> nn.Module:
    """An MLP of joined matrices, called with hidden states and a layer's function."""
    if isinstance(mlp, GatedMLP):
        return JoinedGatedMLP(mlp)
    if isinstance(mlp, MixtureMLP):
        return JoinedMixtureMLP(mlp)
    assert isinstance(mlp, PlainMLP)
    return JoinedPlainMLP(mlp)


def _apart(experts: Experts) -> Iterator[GatedMLP]:
    """Each expert as an MLP of its own, over the same memory."""
    for matrices in zip(experts.gate, experts.up, experts.down, strict=True):
        with torch.device("meta"):
            mlp = GatedMLP(matrices[0].shape[1], matrices[0].shape[0], bias=False)
        for linear, weight in zip((mlp.gate, mlp.up, mlp.down), matrices, strict=True):
            linear.weight = nn.Parameter(weight, requires_grad=False)
        yield mlp


def _places(block: Block) -> dict[str, Place]:
    """The joined matrices by the names that layers call `adapt` with."""
    names: dict[str, tuple[str, ...]] = {
        "attention.projection": ("attention.query", "attention.key", "attention.value"),
        "attention.output": ("attention.output",),
    }
    if not isinstance(block.mlp, MixtureMLP):
        names["mlp.projection"] = ("mlp.gate", "mlp.up") if isinstance(block.mlp, GatedMLP) else ("mlp.up",)
        names["mlp.down"] = ("mlp.down",)
    return {place: _place(block, parts) for place, parts in names.items()}


def _place(block: Block, names: tuple[str, ...]) -> Place:
    layers = {name: block.get_submodule(name) for name in names}
    outputs = {name: int(layer.out_features) for name, layer in layers.items()}  # type: ignore[arg-type]
    return Place(int(layers[names[0]].in_features), outputs)  # type: ignore[arg-type]


def joined_matrix(*parts: nn.Linear) -> nn.Module:
    """The parts, nn.Linear or BlockLinear, side by side as one layer, laid out for where they are."""
    if any(isinstance(part, BlockLinear) for part in parts):
        return NativeLinear(*parts)
    weight = parts[0].weight
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        return NativeLinear(*parts) if native() else PanelLinear(*parts)
    if len(parts) == 1:
        return parts[0]
    joined = nn.Linear(weight.shape[1], sum(part.out_features for part in parts), parts[0].bias is not None, "meta")
    joined.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
    if parts[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
    return joined
