"""How training attends: every token to itself and to those before it."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from hanbit.models.batch import Batch
from hanbit.models.layers.attention import Attend, Attention

MakeAttend = Callable[[Batch], Attend]  # called by each stage with each micro-batch


def causal() -> Attend:
    """The same function for every layer, so that a compiled block serves all of them."""
    return lambda index: causal_attention


def causal_in_batch(batch: Batch) -> Attend:
    """`causal`, whatever the batch is: rows have one document each."""
    return causal()


def causal_attention(layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q [batch, tokens, heads, head_dim], k, v [batch, tokens, key_value_heads, head_dim] -> as q.

    Groups of query heads share a key head inside the kernel: repeating the key heads was 14 times slower.
    """
    q, k, v = q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3)
    mask = window_mask(q.shape[-2], layer.sliding_window, q.device)
    output = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=layer.scale, enable_gqa=q.shape[-3] != k.shape[-3]
    )
    return output.transpose(-2, -3)


def window_mask(tokens: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """[tokens, tokens] bool, true where a query sees a key; None where the window is as wide as the sequence."""
    if window is None or window >= tokens:
        return None
    places = torch.arange(tokens, device=device)
    back = places.unsqueeze(1) - places
    return (back >= 0) & (back < window)
