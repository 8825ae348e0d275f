"""How training attends: every token to itself and to those before it, or to all of a sequence."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from hanbit.models.batch import Batch
from hanbit.models.layers.alibi import biased_mask
from hanbit.models.layers.attention import Attend, Attention, Function

MakeAttend = Callable[[Batch], Callable[[int], Any]]  # called by each stage with each micro-batch


def causal() -> Attend:
    """The same function for every layer, so that a compiled block serves all of them."""
    return lambda index: causal_attention


def causal_in_batch(batch: Batch) -> Attend:
    """`causal`, and inside documents only where the batch says which token is of which."""
    if "documents" not in batch:
        return causal()
    inside = causal_inside(batch["documents"])
    return lambda index: inside


def causal_inside(documents: torch.Tensor) -> Function:
    """A function for all layers: every token attends to itself and to those before it in its document.

    documents: [batch, tokens] int64, a document's tokens in one piece.
    """
    seen = (documents.unsqueeze(-1) == documents.unsqueeze(-2)).tril().unsqueeze(1)  # [batch, 1, tokens, tokens]

    def function(layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        window = window_mask(q.shape[-3], layer.sliding_window, q.device)
        return _attended(layer, q, k, v, seen if window is None else seen & window)

    return function


def causal_attention(layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q [batch, tokens, heads, head_dim], k, v [batch, tokens, key_value_heads, head_dim] -> as q.

    Groups of query heads share a key head inside the kernel: repeating the key heads was 14 times slower.
    """
    return _attended(layer, q, k, v, window_mask(q.shape[-3], layer.sliding_window, q.device))


def _attended(
    layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """mask: bool, true where a query sees a key; None: those before it, and itself."""
    q, k, v = q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3)
    if layer.alibi_slopes is not None:
        places = torch.arange(q.shape[-2], device=q.device)
        back = places.unsqueeze(1) - places
        mask = biased_mask(back >= 0 if mask is None else mask, back, layer.alibi_slopes, q.dtype)
    return product(layer, q, k, v, mask, is_causal=mask is None).transpose(-2, -3)


def product(
    layer: Any,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    is_causal: bool = False,
) -> torch.Tensor:
    """What queries see of values. layer: an Attention, for its constants.

    q [..., heads, queries, head_dim], k and v [..., key_value_heads, keys, head_dim] -> as q. mask: bool, true where a
    query sees a key, or floating, added to the scores; broadcast to [..., heads, queries, keys].
    Groups of query heads share a key head inside the kernel: repeating the key heads was 14 times slower.
    """
    if layer.score_cap is not None:
        return _capped_product(layer, q, k, v, mask, is_causal)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, scale=layer.scale, enable_gqa=q.shape[-3] != k.shape[-3]
    )


def _capped_product(
    layer: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, is_causal: bool
) -> torch.Tensor:
    """By hand, for no kernel of torch caps scores. A group of query heads is a dim over which its keys broadcast."""
    assert layer.alibi_slopes is None, "a mask of its own for every head has no place in the groups"
    queries = q.unflatten(-3, (k.shape[-3], -1))  # [..., key_value_heads, group, queries, head_dim]
    scores = queries @ k.unsqueeze(-3).transpose(-1, -2) * layer.scale
    scores = (scores / layer.score_cap).tanh() * layer.score_cap
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        mask = mask.unsqueeze(-3) if mask.dim() > 2 else mask
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    weights = scores.float().softmax(-1).to(v.dtype)
    return (weights @ v.unsqueeze(-3)).flatten(-4, -3)


def window_mask(tokens: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """[tokens, tokens] bool, true where a query sees a key; None where the window is as wide as the sequence."""
    if window is None or window >= tokens:
        return None
    places = torch.arange(tokens, device=device)
    back = places.unsqueeze(1) - places
    return (back >= 0) & (back < window)


def bidirectional(present: torch.Tensor | None = None) -> Attend:
    """Every token sees all that are there. present: [batch, keys] bool, false where there is padding; None: all are."""
    function = partial(masked_attention, mask=_over_keys(present))
    return lambda index: function


def bidirectional_in_batch(batch: Batch) -> Attend:
    """`bidirectional`; `present` [sequences, time] of the batch says what is no padding, where there is some."""
    return bidirectional(batch.get("present"))


def encoder_decoder(present: torch.Tensor | None = None) -> Callable[[int], tuple[Function, Function]]:
    """A pair for every layer, which takes what it needs: how a token sees all that the encoder reads, and how those
    before it."""
    functions = partial(masked_attention, mask=_over_keys(present)), biased_causal_attention
    return lambda index: functions


def encoder_decoder_in_batch(batch: Batch) -> Callable[[int], tuple[Function, Function]]:
    return encoder_decoder(batch.get("present"))


def masked_attention(
    layer: Attention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """q [batch, queries, heads, head_dim], k, v [batch, keys, heads, head_dim] -> as q.

    mask: bool, true where a query sees a key; bias: added to the scores; each broadcast to [batch, heads, queries,
    keys].
    """
    if bias is not None and mask is not None:
        mask = bias.masked_fill(~mask, float("-inf"))
    q, k, v = q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3)
    mask = bias if mask is None else mask
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=layer.scale).transpose(-2, -3)


def biased_causal_attention(
    layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """As `causal_attention`; bias: [heads, tokens, tokens], added to the scores."""
    sees = torch.ones(bias.shape[-2:], dtype=torch.bool, device=q.device).tril()
    return masked_attention(layer, q, k, v, sees, bias)


def _over_keys(present: torch.Tensor | None) -> torch.Tensor | None:
    return None if present is None else present[:, None, None, :]
