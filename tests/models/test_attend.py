"""Capped scores, and slopes in place of positions, against plain loops over tokens; in training's functions."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hanbit.models.layers.alibi import slopes_of
from hanbit.models.layers.attend import causal_attention, causal_inside

HEADS, KEY_HEADS, TOKENS, WIDTH = 4, 2, 9, 6
DOCUMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 2]])


def plain(layer: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """One query, one head, one key after the other."""
    output = torch.zeros_like(q)
    for head in range(HEADS):
        key_head = head * k.shape[2] // HEADS
        for query in range(TOKENS):
            first = 0 if layer.sliding_window is None else max(0, query + 1 - layer.sliding_window)
            keys = [key for key in range(first, query + 1) if documents[0, key] == documents[0, query]]
            scores = []
            for key in keys:
                score = float(q[0, query, head] @ k[0, key, key_head]) * layer.scale
                if layer.score_cap is not None:
                    score = layer.score_cap * math.tanh(score / layer.score_cap)
                if layer.alibi_slopes is not None:
                    score -= layer.alibi_slopes[head] * (query - key)
                scores.append(score)
            weights = torch.tensor(scores).softmax(0)
            output[0, query, head] = sum(w * v[0, key, key_head] for w, key in zip(weights, keys, strict=True))
    return output


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("kind", [{"score_cap": 1.5}, {"alibi_slopes": slopes_of(HEADS)}], ids=str)
def test_caps_and_slopes_give_what_a_plain_loop_gives(
    kind: dict[str, Any], window: int | None, is_packed: bool
) -> None:
    torch.manual_seed(0)
    key_heads = KEY_HEADS if "score_cap" in kind else HEADS
    layer: Any = SimpleNamespace(
        **{"scale": 0.7, "score_cap": None, "alibi_slopes": None, "sliding_window": window, **kind}
    )
    q, k, v = (2 * torch.randn(1, TOKENS, heads, WIDTH) for heads in (HEADS, key_heads, key_heads))
    documents = DOCUMENTS if is_packed else torch.zeros_like(DOCUMENTS)
    function = causal_inside(documents) if is_packed else causal_attention
    torch.testing.assert_close(function(layer, q, k, v), plain(layer, q, k, v, documents), rtol=0, atol=1e-5)


def test_slopes_are_those_of_the_paper() -> None:
    """Eight heads: 1/2, 1/4 ... 1/256; six: those of four, and two of those between that eight have."""
    assert slopes_of(8) == tuple(2.0**-power for power in range(1, 9))
    assert slopes_of(6) == (0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125)
