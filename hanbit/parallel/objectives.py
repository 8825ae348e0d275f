"""What the last stage computes from what reached it: the summed loss of a micro-batch.

An objective belongs to a task, not to a stage; `train/setup.py` chooses it and hands it to `parallelize`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from hanbit.models.batch import Batch
from hanbit.parallel.grid import Axis
from hanbit.parallel.loss import next_token_loss

Places = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""From targets [sequences, time] to the (row, column) indices of those that count."""

Carried = tuple[torch.Tensor, ...]
"""What travels from stage to stage: (hidden,) of a decoder. Empty on the first stage."""


@dataclass(frozen=True)
class Vocabulary:
    """Which token ids this rank's part of the output projection has: from `first_id` on, the rest over the axis."""

    axis: Axis
    first_id: int = 0


@dataclass(frozen=True)
class Objective:
    """`loss(model, carried, batch, vocabulary)`: the sum over the micro-batch's targets, a float32 scalar.

    trims: nothing behind the last target that counts has any effect, so a micro-batch may be cut there.
    """

    loss: Callable[[Any, Carried, Batch, Vocabulary], torch.Tensor]
    trims: bool = False


def _next_tokens(
    model: Any, carried: Carried, batch: Batch, vocabulary: Vocabulary, has_ignored: bool = False
) -> torch.Tensor:
    hidden, weight = _with_bias(model.final(carried[0]), model.output)
    return next_token_loss(hidden, weight, batch["targets"], vocabulary.axis, vocabulary.first_id, has_ignored)


def _with_bias(states: torch.Tensor, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """States and the output projection's weight; a bias rides along as one more column, which meets ones."""
    if output.bias is None:
        return states, output.weight
    states = torch.cat((states, torch.ones_like(states[..., :1])), dim=-1)
    return states, torch.cat((output.weight, output.bias.unsqueeze(1)), dim=1)


def _hidden_words(targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (targets >= 0).nonzero(as_tuple=True)


def _masked(model: Any, carried: Carried, batch: Batch, vocabulary: Vocabulary, places: Places) -> torch.Tensor:
    """Hidden words alone go through the head. An order counts as many words as `order_weights` says."""
    hidden, at = carried[0], places(batch["targets"])
    states, weight = _with_bias(model.final(hidden[at]), model.output)
    words = next_token_loss(states, weight, batch["targets"][at], vocabulary.axis, vocabulary.first_id)
    if "order" not in batch:
        return words
    orders = F.cross_entropy(model.order_of(hidden).float(), batch["order"], reduction="none")
    return words + (orders * batch["order_weights"]).sum()


NEXT_TOKENS = Objective(_next_tokens)
"""Every target counts."""

ANSWERS = Objective(partial(_next_tokens, has_ignored=True), trims=True)
"""Targets below 0 count nothing: what others say in a conversation, and the padding behind it."""


def masked(places: Places = _hidden_words) -> Objective:
    """Hidden words, and in which order two segments stand (hanbit.data.masked)."""
    return Objective(partial(_masked, places=places))


MASKED = masked()
