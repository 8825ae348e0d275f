"""The mixture of experts against a plain loop, and its load-balancing loss against transformers'."""

import pytest
import torch
from torch.nn import functional as F
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

from hanbit.models.layers.experts import MixtureMLP, load_balancing, router_z

EXPERTS, CHOSEN, WIDTH = 5, 2, 12


def built(normalize: bool = True) -> MixtureMLP:
    torch.manual_seed(0)
    return MixtureMLP(WIDTH, 8, EXPERTS, CHOSEN, normalize).double()


def one_token(layer: MixtureMLP, token: torch.Tensor) -> torch.Tensor:
    """Every expert in turn, in the order of their probability."""
    probabilities = F.softmax(layer.router.weight @ token, 0)
    order = sorted(range(EXPERTS), key=lambda expert: -probabilities[expert].item())[:CHOSEN]
    total = sum(probabilities[expert] for expert in order) if layer.router.normalize else 1.0
    output = torch.zeros(WIDTH, dtype=token.dtype)
    for expert in order:
        gate, up, down = (stack[expert] for stack in (layer.experts.gate, layer.experts.up, layer.experts.down))
        output = output + probabilities[expert] / total * (down @ (F.silu(gate @ token) * (up @ token)))
    return output


@pytest.mark.parametrize("normalize", [True, False])
def test_each_token_gets_what_a_loop_over_its_experts_gives_and_so_do_gradients(normalize: bool) -> None:
    layer = built(normalize)
    hidden = torch.randn(2, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    found = layer(hidden)
    wanted = torch.stack([one_token(layer, token) for token in hidden.flatten(0, 1)]).view_as(hidden)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # probabilities are float32
    inputs = [hidden, *layer.parameters()]
    slope = torch.randn_like(hidden)
    ours, theirs = (torch.autograd.grad(output, inputs, slope) for output in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_an_expert_that_no_token_goes_to_has_a_gradient_of_zero() -> None:
    layer = built()
    layer(torch.randn(1, WIDTH, dtype=torch.float64)).sum().backward()
    used = [stack.abs().sum() > 0 for stack in layer.experts.gate.grad]  # type: ignore[union-attr]
    assert sum(used) == CHOSEN


def test_load_balancing_loss_and_its_gradient_are_transformers_of_one_layer() -> None:
    layer, hidden = built().float(), torch.randn(3, 11, WIDTH, requires_grad=True)
    found = load_balancing(layer.router(hidden))
    logits = F.linear(hidden.flatten(0, 1), layer.router.weight)
    wanted = load_balancing_loss_func((logits,), EXPERTS, CHOSEN)
    torch.testing.assert_close(found, wanted)
    slopes = (torch.autograd.grad(loss, layer.router.weight)[0] for loss in (found, wanted))
    torch.testing.assert_close(*slopes)


def test_load_balancing_loss_of_tokens_that_go_everywhere_alike_is_the_number_chosen() -> None:
    layer = built().float()
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[:, :EXPERTS] = torch.eye(EXPERTS) + torch.eye(EXPERTS).roll(1, 1)
    hidden = F.pad(torch.eye(EXPERTS), (0, WIDTH - EXPERTS))
    assert load_balancing(layer.router(hidden)).item() == pytest.approx(CHOSEN)
    crowded = load_balancing(layer.router(100 * hidden[:1].expand(4, -1)))
    assert crowded.item() == pytest.approx(EXPERTS)


def test_router_z_loss_and_its_gradient_are_transformers_and_the_softmax() -> None:
    """The slope of logsumexp is the softmax, so that of its square is twice their product."""
    layer, hidden = built().float(), torch.randn(3, 11, WIDTH)
    routing = layer.router(hidden)
    logits = F.linear(hidden, layer.router.weight)
    torch.testing.assert_close(router_z(routing), router_z_loss_func(logits))
    (slope,) = torch.autograd.grad(router_z(routing), layer.router.weight)
    sums = logits.exp().sum(-1, keepdim=True)
    by_hand = 2 * sums.log() * (logits.exp() / sums) / (3 * 11)
    torch.testing.assert_close(slope, torch.einsum("ste,sth->eh", by_hand, hidden))
