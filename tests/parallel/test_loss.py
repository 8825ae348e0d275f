"""The loss where some targets do not count and the output projection is frozen, against torch's own."""

import pytest
import torch
from torch.nn import functional as F

from hanbit.parallel.grid import Axis
from hanbit.parallel.loss import next_token_loss


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(13, (4, 6))
    targets[0, :] = targets[1, 2] = targets[3, 5] = -1
    return torch.randn(4, 6, 8).requires_grad_(), 3 * torch.randn(13, 8), targets


@pytest.mark.parametrize("is_frozen", [False, True])
def test_targets_below_zero_count_nothing(is_frozen: bool) -> None:
    hidden, weight, targets = inputs()
    weight.requires_grad_(not is_frozen)
    loss = next_token_loss(hidden, weight, targets, Axis("tensor"), has_ignored=True)
    (2 * loss).backward()
    found, found_weight = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    wanted = F.cross_entropy(
        F.linear(hidden, weight).flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
    )
    (2 * wanted).backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(found, hidden.grad)
    assert (found_weight is None) == is_frozen
    if not is_frozen:
        torch.testing.assert_close(found_weight, weight.grad)


def test_a_micro_batch_without_any_answer_has_no_loss_and_no_gradient() -> None:
    hidden, weight, targets = inputs()
    loss = next_token_loss(hidden, weight, torch.full_like(targets, -1), Axis("tensor"), has_ignored=True)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert hidden.grad.abs().max() == 0
