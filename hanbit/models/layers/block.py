"""How attention and MLP stand beside the residual stream: behind norms, before them, between two, side by side.

`flow` is the arithmetic alone, over norms that the block has and an attention and an MLP that are handed in: training
hands in the block's own, the engine ones of joined matrices (engine/fuse.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Part = Callable[[torch.Tensor], torch.Tensor]


class Block(nn.Module):
    """Attention and MLP one after the other, each behind a norm."""

    attention: nn.Module
    mlp: nn.Module
    attention_norm: nn.Module
    attention_end_norm: nn.Module
    mlp_norm: nn.Module
    mlp_end_norm: nn.Module

    def __init__(self, **parts: nn.Module) -> None:
        """parts: attention, mlp, and the norms that `flow` has, by name, in the order of their use."""
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, hidden: torch.Tensor, rotation: Any, function: Any) -> torch.Tensor:
        return self.flow(hidden, lambda normed: self.attention(normed, rotation, function), self.mlp)

    def flow(self, hidden: torch.Tensor, attention: Part, mlp: Part) -> torch.Tensor:
        hidden = hidden + attention(self.attention_norm(hidden))
        return hidden + mlp(self.mlp_norm(hidden))


class ParallelBlock(Block):
    """Both see the same hidden state, each behind a norm of its own (GPT-NeoX, arXiv 2204.06745)."""

    def flow(self, hidden: torch.Tensor, attention: Part, mlp: Part) -> torch.Tensor:
        return hidden + attention(self.attention_norm(hidden)) + mlp(self.mlp_norm(hidden))


class SharedNormBlock(Block):
    """Both see the same hidden state behind the same norm (GPT-J, Phi)."""

    def flow(self, hidden: torch.Tensor, attention: Part, mlp: Part) -> torch.Tensor:
        normed = self.attention_norm(hidden)
        return hidden + attention(normed) + mlp(normed)


class EndNormBlock(Block):
    """What each gives is normed, not what it gets (EXAONE 4.0, arXiv 2507.11407)."""

    def flow(self, hidden: torch.Tensor, attention: Part, mlp: Part) -> torch.Tensor:
        hidden = hidden + self.attention_end_norm(attention(hidden))
        return hidden + self.mlp_end_norm(mlp(hidden))


class SandwichBlock(Block):
    """Both what it gets and what it gives (Gemma 2, arXiv 2408.00118)."""

    def flow(self, hidden: torch.Tensor, attention: Part, mlp: Part) -> torch.Tensor:
        hidden = hidden + self.attention_end_norm(attention(self.attention_norm(hidden)))
        return hidden + self.mlp_end_norm(mlp(self.mlp_norm(hidden)))
