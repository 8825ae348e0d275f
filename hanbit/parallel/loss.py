"""Cross-entropy of next tokens straight from the hidden state: the logits of all tokens never exist at once.

Logits are the largest tensor of a training step (tokens x vocabulary) and are needed for a moment only. Here a few
rows of them at a time are made, turned into the loss and at once into gradients, in the same memory, which stays in
the processor's cache (as in Liger-Kernel, arXiv 2410.10989). With the vocabulary cut over the tensor axis each rank
has its own columns, and the three numbers per token that all of them need are reduced (Shoeybi et al., arXiv
1909.08053, section 3).
"""

from typing import Any

import torch

from hanbit.parallel.collectives import Purpose, all_reduce, enter
from hanbit.parallel.grid import Axis

CHUNK_BYTES = 16_000_000  # of float32 logits; measured best of 8 to 128 MB with 32 MB of last-level cache


def next_token_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    axis: Axis,
    first_id: int = 0,
    has_ignored: bool = False,
) -> torch.Tensor:
    """The summed loss, a scalar in float32.

    hidden: [..., hidden], as the output projection takes it; weight: [local vocabulary, hidden], token ids `first_id`
    onwards; targets: [...] int64 over the whole vocabulary. Matrix products run in autocast's dtype where it is on.
    Where the axis splits the sequence, hidden is our part of [sequences, time, hidden] and targets are whole: each rank
    has other token ids, so each needs all hidden states.
    has_ignored: targets below 0 count nothing, and no logits are made for them.
    """
    if axis.splits_sequence:
        hidden = enter(hidden, axis, Purpose.HEAD_ENTER)
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    if has_ignored:
        kept = targets >= 0
        hidden, targets = hidden[kept], targets[kept]
    return _NextTokenLoss.apply(hidden, weight, targets, axis, first_id)


class _NextTokenLoss(torch.autograd.Function):
    """Gradients are made in the forward pass, for a loss of weight one; backward only scales them."""

    @staticmethod
    def forward(
        context: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, axis: Axis, first_id: int
    ) -> torch.Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        needs_gradient, needs_weight = any(context.needs_input_grad[:2]), context.needs_input_grad[1]
        with torch.autocast(kind, enabled=False):
            loss, gradients = _loss_and_gradients(
                hidden.to(dtype), weight.to(dtype), targets, axis, first_id, needs_gradient, needs_weight
            )
        context.axis = axis
        context.is_scaled = False
        if gradients is not None:
            weight_gradient = None if gradients[1] is None else gradients[1].to(weight.dtype)
            context.save_for_backward(gradients[0].to(hidden.dtype), weight_gradient)
        return loss

    @staticmethod
    def backward(context: Any, *upstream: torch.Tensor) -> Any:
        """The weight's gradient is scaled in place: it is as large as the weight.

        Zero-bubble schedules come twice, for hidden's and for the weight's, and it must be scaled once; through
        `.data`, for a saved tensor that was changed cannot be had a second time.
        """
        hidden_gradient, weight_gradient = context.saved_tensors
        if not context.axis.splits_sequence:  # else summed where the parts were gathered
            hidden_gradient = all_reduce(hidden_gradient, context.axis, Purpose.HEAD_ENTER)
        if weight_gradient is not None and not context.is_scaled:
            weight_gradient.data.mul_(upstream[0])
            context.is_scaled = True
        return hidden_gradient * upstream[0], weight_gradient, None, None, None


def _loss_and_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    axis: Axis,
    first_id: int,
    needs_gradient: bool,
    needs_weight: bool,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor | None] | None]:
    """Loss [], and the gradients of hidden [tokens, hidden] and of weight [local vocabulary, hidden] unless frozen."""
    rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    hidden_gradient = torch.empty_like(hidden) if needs_gradient else None
    weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
    memory = torch.empty(min(rows, len(hidden)), weight.shape[0], dtype=hidden.dtype, device=hidden.device)
    for start in range(0, len(hidden), rows):
        part = hidden[start : start + rows]
        logits = torch.mm(part, weight.T, out=memory[: len(part)]).float()
        loss += _chunk_loss(logits, targets[start : start + rows], axis, first_id, needs_gradient)
        if hidden_gradient is None:
            continue
        slope = logits.to(hidden.dtype)
        torch.mm(slope, weight, out=hidden_gradient[start : start + rows])
        if weight_gradient is None:
            continue
        if weight_gradient.dtype == slope.dtype:
            weight_gradient.addmm_(slope.T, part)
        else:
            weight_gradient += slope.T @ part
    return loss, None if hidden_gradient is None else (hidden_gradient, weight_gradient)


def _chunk_loss(
    logits: torch.Tensor, targets: torch.Tensor, axis: Axis, first_id: int, needs_gradient: bool
) -> torch.Tensor:
    """The chunk's summed loss; where gradients are wanted, `logits` become its slope (softmax, less the target)."""
    largest = all_reduce(logits.amax(-1), axis, Purpose.LOSS_MAXIMUM, "max")
    logits -= largest.unsqueeze(-1)
    local = (targets - first_id).unsqueeze(-1)
    is_here = (local >= 0) & (local < logits.shape[-1])
    place = local.clamp(0, logits.shape[-1] - 1)
    target_logit = all_reduce((logits.gather(-1, place) * is_here).squeeze(-1), axis, Purpose.LOSS_TARGET)
    logits.exp_()
    denominator = all_reduce(logits.sum(-1), axis, Purpose.LOSS_DENOMINATOR)
    if needs_gradient:
        logits /= denominator.unsqueeze(-1)
        logits.scatter_add_(-1, place, -is_here.to(logits.dtype))
    return (denominator.log() - target_logit).sum()
