"""Cross-entropy of next tokens, also when every rank has the logits of its own part of the vocabulary only."""

import torch
from torch.nn import functional as F

from hanbit.parallel.collectives import Purpose, all_reduce, leave
from hanbit.parallel.grid import Axis


def cross_entropy_sum(logits: torch.Tensor, targets: torch.Tensor, axis: Axis, first_id: int = 0) -> torch.Tensor:
    """The summed loss, a scalar in float32.

    logits: [..., local vocabulary], ids `first_id` onwards; targets: [...] int64 over the whole vocabulary.
    log(sum(exp(logits))) - logits[target], with the largest logit of all ranks taken off first.
    """
    if axis.size == 1:
        return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction="sum")
    logits = logits.float()
    largest = all_reduce(logits.detach().amax(-1), axis, Purpose.LOSS_MAXIMUM, "max")
    logits = logits - largest.unsqueeze(-1)
    denominator = leave(logits.exp().sum(-1), axis, Purpose.LOSS_DENOMINATOR)
    return (denominator.log() - _target_logit(logits, targets, axis, first_id)).sum()


def _target_logit(logits: torch.Tensor, targets: torch.Tensor, axis: Axis, first_id: int) -> torch.Tensor:
    local = targets - first_id
    outside = (local < 0) | (local >= logits.shape[-1])
    mine = logits.gather(-1, local.masked_fill(outside, 0).unsqueeze(-1)).squeeze(-1)
    return leave(mine.masked_fill(outside, 0.0), axis, Purpose.LOSS_TARGET)
