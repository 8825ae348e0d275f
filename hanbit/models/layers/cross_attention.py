"""Attention of a decoder to what its encoder gave: queries from one sequence, keys and values from the other."""

import torch

from hanbit.models.layers.attention import Attention, Function


class CrossAttention(Attention):
    def forward(self, hidden: torch.Tensor, encoded: torch.Tensor, function: Function) -> torch.Tensor:  # type: ignore[override]
        """hidden [..., tokens, hidden], encoded [..., other tokens, hidden] -> as hidden."""
        q = self.query(hidden).unflatten(-1, (-1, self.head_dim))
        k = self.key(encoded).unflatten(-1, (-1, self.head_dim))
        v = self.value(encoded).unflatten(-1, (-1, self.head_dim))
        return self.output(function(self, q, k, v).flatten(-2))
