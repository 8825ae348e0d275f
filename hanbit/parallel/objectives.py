"""What the last stage computes from what reached it: the summed loss of a micro-batch.

An objective belongs to a task, not to a stage; `train/setup.py` chooses it and hands it to `parallelize`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hanbit.models.batch import Batch
from hanbit.parallel.grid import Axis
from hanbit.parallel.loss import next_token_loss

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
    hidden, weight = model.final(carried[0]), model.output.weight
    return next_token_loss(hidden, weight, batch["targets"], vocabulary.axis, vocabulary.first_id, has_ignored)


NEXT_TOKENS = Objective(_next_tokens)
"""Every target counts."""

ANSWERS = Objective(partial(_next_tokens, has_ignored=True), trims=True)
"""Targets below 0 count nothing: what others say in a conversation, and the padding behind it."""
