"""T5's relative positions (Raffel et al., arXiv 1910.10683): a learned number per head and bucket of distances, added
to the scores of attention. Near distances have a bucket each, far ones share them on a logarithmic scale.
"""

import math

import torch
from torch import nn


class RelativeBias(nn.Module):
    """One table for all layers of a stack. `weight` [heads, buckets]: heads first, so that ranks can share them out."""

    def __init__(self, heads: int, buckets: int, distance: int, is_bidirectional: bool) -> None:
        super().__init__()
        self.distance, self.is_bidirectional = distance, is_bidirectional
        self.weight = nn.Parameter(torch.zeros(heads, buckets))

    def forward(self, queries: int, keys: int) -> torch.Tensor:
        """[heads, queries, keys]; both count from the same first token."""
        device = self.weight.device
        back = torch.arange(keys, device=device) - torch.arange(queries, device=device).unsqueeze(1)
        return self.weight[:, bucket_of(back, self.weight.shape[1], self.distance, self.is_bidirectional)]

    def between(self, ahead: torch.Tensor) -> torch.Tensor:
        """ahead [..., queries, keys]: a key's position minus a query's -> [..., heads, queries, keys]."""
        buckets = bucket_of(ahead, self.weight.shape[1], self.distance, self.is_bidirectional)
        return self.weight.T[buckets].movedim(-1, -3)


def bucket_of(relative: torch.Tensor, buckets: int, distance: int, is_bidirectional: bool) -> torch.Tensor:
    """Buckets of key position minus query position, int64; half of them for keys behind the query where it sees both
    sides. In transformers' own order of operations, so that borders fall alike."""
    first = torch.zeros_like(relative)
    if is_bidirectional:
        buckets //= 2
        first = (relative > 0).long() * buckets
        relative = relative.abs()
    else:
        relative = -relative.clamp(max=0)
    exact = buckets // 2
    far = exact + (torch.log(relative.float() / exact) / math.log(distance / exact) * (buckets - exact)).long().clamp(
        max=buckets - 1 - exact
    )
    return first + torch.where(relative < exact, relative, far)
