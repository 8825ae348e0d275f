"""AWQ (Lin et al., arXiv 2306.00978): input channels that are large are scaled up in the matrix and down before it, so
that their weights lose less.

The scale is folded into what makes the input: a norm, or the rows of a matrix. The float model computes the same; what
changes is how its numbers fall on the grid.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from hanbit.models.layers.attention import Attention
from hanbit.models.layers.block import Block, EndNormBlock, SandwichBlock
from hanbit.models.layers.mlp import GatedMLP, PlainMLP
from hanbit.models.layers.norm import RMSNorm, ShiftedRMSNorm
from hanbit.quantize.groups import Scheme, rounded

_RATIOS = [step / 20 for step in range(0, 20, 2)]

Fold = Callable[[torch.Tensor], None]  # divides a layer's input, channel by channel


def folds(block: Block) -> list[tuple[Fold, tuple[str, ...]]]:
    """What can be divided before which matrices of a block, by their names in it; none where something else reads the
    same input (Phi's one norm for both, a mixture's router)."""
    found: list[tuple[Fold, tuple[str, ...]]] = []
    has_norms, mlp = type(block) in (Block, SandwichBlock), block.mlp
    attention = block.attention
    assert isinstance(attention, Attention)
    if has_norms:
        found.append((_norm_fold(block.attention_norm), ("attention.query", "attention.key", "attention.value")))
    if has_norms and isinstance(mlp, GatedMLP | PlainMLP):
        names = ("mlp.gate", "mlp.up") if isinstance(mlp, GatedMLP) else ("mlp.up",)
        found.append((_norm_fold(block.mlp_norm), names))
    if (has_norms or type(block) is EndNormBlock) and attention.value.out_features == attention.output.in_features:
        found.append((_row_fold(attention.value), ("attention.output",)))
    if isinstance(mlp, GatedMLP):
        found.append((_row_fold(mlp.up), ("mlp.down",)))
    return found


def best_scale(
    matrices: Sequence[torch.Tensor], sizes: torch.Tensor, products: torch.Tensor, scheme: Scheme
) -> torch.Tensor:
    """Factors [columns] with which `matrices`, float32 [rows, columns], of the same input lose least when rounded.

    sizes: mean of the input's magnitude, [columns]; products: [columns, columns], the sum of x x' over inputs x. All
    ones where no scale is better.
    """
    best, least = torch.ones_like(sizes), torch.inf
    for ratio in _RATIOS:
        factors = sizes.clamp(min=1e-4).pow(ratio)
        factors = factors / (factors.max() * factors.min()).sqrt()
        error = sum(output_error(one, _through(one, factors, scheme), products) for one in matrices)
        if error < least:
            best, least = factors, error
    return best


def output_error(numbers: torch.Tensor, found: torch.Tensor, products: torch.Tensor) -> float:
    """Sum of squares of what a layer's output changes by over the inputs that `products` sums up."""
    gap = found - numbers
    return float(((gap @ products) * gap).sum())


def _through(numbers: torch.Tensor, factors: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Plain scales, for a search inside this one takes long; the scale that is found gets its own search."""
    return rounded(numbers * factors, scheme, is_searched=False).numbers() / factors


def _norm_fold(norm: nn.Module) -> Fold:
    def fold(factors: torch.Tensor) -> None:
        if isinstance(norm, RMSNorm):
            shift = 1.0 if isinstance(norm, ShiftedRMSNorm) else 0.0
            norm.weight.copy_(norm.factor / factors - shift)
            return
        assert isinstance(norm, nn.LayerNorm)
        norm.weight.div_(factors)
        norm.bias.div_(factors)

    return fold


def _row_fold(layer: nn.Linear) -> Fold:
    def fold(factors: torch.Tensor) -> None:
        layer.weight.div_(factors.unsqueeze(1))
        if layer.bias is not None:
            layer.bias.div_(factors)

    return fold
