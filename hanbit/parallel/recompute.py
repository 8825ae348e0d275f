"""Recompute: forget activations in the forward pass, compute them again in the backward pass.

full       only a block's input is kept; one more forward pass of the block (Chen et al., arXiv 1604.06174)
selective  the results of matrix products are kept too, and what the tensor axis summed; scores, softmax, norms and
           activation functions are computed again, which is cheap for their size (Korthikanti et al., arXiv 2205.05198)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

Kind = Literal["none", "selective", "full"]

_KEPT = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_mm.default,
    torch.ops._c10d_functional.all_reduce.default,  # else it would be sent again
    torch.ops._c10d_functional.reduce_scatter_tensor.default,
]


@dataclass(frozen=True)
class Recompute:
    """`layers`: how many blocks of each stage, the first ones; `every`: only every k-th, from the first on."""

    kind: Kind = "none"
    layers: int | Literal["all"] = "all"
    every: int = 1


NO_RECOMPUTE = Recompute()


def recompute(block: nn.Module, kind: Kind) -> None:
    """From now on the block forgets; names of its parameters stay."""
    original = type(block)
    keep: dict[str, Any] = {}
    if kind == "selective":
        keep["context_fn"] = partial(create_selective_checkpoint_contexts, _KEPT)

    class Recomputed(original):  # type: ignore[misc, valid-type]
        def forward(self, *inputs: Any) -> Any:
            if not torch.is_grad_enabled():
                return super().forward(*inputs)
            return checkpoint(super().forward, *inputs, use_reentrant=False, **keep)

    Recomputed.__name__ = f"Recomputed{original.__name__}"
    block.__class__ = Recomputed


def chosen(blocks: Sequence[nn.Module], options: Recompute) -> Sequence[nn.Module]:
    """Which of a stage's blocks forget."""
    if options.kind == "none":
        return []
    spaced = blocks[:: options.every]
    return spaced if options.layers == "all" else spaced[: options.layers]
