"""ALiBi (Press et al., arXiv 2108.12409): no positions; scores fall by a head's slope for each token looked back."""

import math

import torch


def slopes_of(heads: int) -> tuple[float, ...]:
    """Of every head: 2^(-8 i / n) for a power of two n; those left over lie between them, as in the paper's code."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2.0 ** (-8.0 * (head + 1) / power) for head in range(power)]
    between = [2.0 ** (-4.0 * (2 * head + 1) / power) for head in range(heads - power)]
    return tuple(first + between)


def biased_mask(seen: torch.Tensor, back: torch.Tensor, slopes: tuple[float, ...], dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores of heads with these slopes: [..., heads, queries, keys].

    seen, back [..., queries, keys], perhaps with a dim of one for heads: whether a query sees a key, and how many
    tokens it looks back.
    """
    falls = torch.tensor(slopes, device=back.device).view(-1, 1, 1) * back
    return falls.neg().masked_fill(~seen, float("-inf")).to(dtype)
