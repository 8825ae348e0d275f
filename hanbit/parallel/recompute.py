"""Recompute: forget a block's activations in the forward pass, compute them again in the backward pass.

Trades one more forward pass of the block for its memory (Chen et al., arXiv 1604.06174).
"""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_whole(block: nn.Module) -> None:
    """Keep only the block's input; names of its parameters stay."""
    original = type(block)

    class Recomputed(original):  # type: ignore[misc, valid-type]
        def forward(self, *inputs: Any) -> Any:
            if not torch.is_grad_enabled():
                return super().forward(*inputs)
            return checkpoint(super().forward, *inputs, use_reentrant=False)

    Recomputed.__name__ = f"Recomputed{original.__name__}"
    block.__class__ = Recomputed
