"""A mixture of experts (Shazeer et al., arXiv 1701.06538): each token goes through a few of many gated MLPs.

A router gives every expert a probability, the most probable ones compute, and their outputs are added, each times its
probability (Mixtral, arXiv 2401.04088; Qwen3, arXiv 2505.09388). No token is dropped, however crowded an expert is:
rows are sorted by expert, and every expert multiplies its own stretch of them.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Routing(NamedTuple):
    """`logits` and their softmax `probabilities` [..., experts] float32.

    Where tokens go: `weights` float32 and `experts` int64, [..., chosen].
    """

    logits: torch.Tensor
    probabilities: torch.Tensor
    weights: torch.Tensor
    experts: torch.Tensor


class Router(nn.Module):
    """The softmax is over all experts, before the choice; `normalize`: weights of those chosen are scaled to one."""

    def __init__(self, hidden: int, experts: int, chosen: int, normalize: bool) -> None:
        super().__init__()
        self.chosen = chosen
        self.normalize = normalize
        self.weight = _matrices(experts, hidden)

    def forward(self, hidden: torch.Tensor) -> Routing:
        """hidden [..., hidden]. In the weight's arithmetic, not autocast's: a rounded logit sends a token elsewhere."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.to(self.weight.dtype), self.weight).float()
        probabilities = logits.softmax(-1)
        weights, experts = probabilities.topk(self.chosen, dim=-1)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        return Routing(logits, probabilities, weights, experts)


class Experts(nn.Module):
    """down(silu(gate(x)) * up(x)) for each of `experts`, whose matrices are stacked."""

    def __init__(self, hidden: int, inner: int, experts: int) -> None:
        super().__init__()
        self.gate = _matrices(experts, inner, hidden)
        self.up = _matrices(experts, inner, hidden)
        self.down = _matrices(experts, hidden, inner)

    def forward(self, hidden: torch.Tensor, routing: Routing) -> torch.Tensor:
        """hidden [..., hidden] -> the same shape: the chosen experts' outputs, weighted and added."""
        chosen = routing.experts.flatten(0, -2)  # [tokens, chosen]
        order = chosen.flatten().argsort(stable=True)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        rows = hidden.flatten(0, -2)[order // chosen.shape[1]]
        outputs = self.outputs(rows, chosen.flatten()[order])[back].unflatten(0, chosen.shape)
        added = (outputs * routing.weights.flatten(0, -2).unsqueeze(-1)).sum(1)  # in float32
        return added.to(hidden.dtype).view_as(hidden)

    def outputs(self, rows: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        """rows [count, hidden], sorted by the expert that each goes to, experts [count] -> [count, hidden]."""
        return self.by_expert(rows, self.counts(experts))

    def counts(self, experts: torch.Tensor) -> list[int]:
        """How many rows each expert gets; experts: as `outputs` has them."""
        return rows_of_each(experts, len(self.gate)).tolist()

    def by_expert(self, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """rows [count, hidden]: the first counts[0] for expert 0 and so on -> [count, hidden]."""
        matrices = zip(self.gate.unbind(), self.up.unbind(), self.down.unbind(), strict=True)
        # an expert without rows takes part with none: its gradient is zero then, and not absent
        return torch.cat([_gated(part, *own) for part, own in zip(rows.split(counts), matrices, strict=True)])


def rows_of_each(experts: torch.Tensor, count: int) -> torch.Tensor:
    """How often each of `count` experts is named, [count] int64. As bincount, which would wait for a GPU to know its
    own shape."""
    named = experts.flatten()
    return torch.zeros(count, dtype=torch.int64, device=named.device).scatter_add_(0, named, torch.ones_like(named))


def _gated(rows: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return F.linear(F.silu(F.linear(rows, gate)) * F.linear(rows, up), down)


class MixtureMLP(nn.Module):
    """What stands in a sparse layer where others have an MLP."""

    def __init__(self, hidden: int, inner: int, experts: int, chosen: int, normalize: bool) -> None:
        super().__init__()
        self.router = Router(hidden, experts, chosen, normalize)
        self.experts = Experts(hidden, inner, experts)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., hidden] -> the same shape."""
        return self.experts(hidden, self.router(hidden))


def _matrices(*shape: int) -> nn.Parameter:
    """As wide as nn.Linear's; on the meta device numbers would load torch's compiler, 2 s."""
    stack = torch.empty(shape)
    return nn.Parameter(stack if stack.is_meta else stack.normal_(0.0, shape[-1] ** -0.5))


def load_balancing(routing: Routing) -> torch.Tensor:
    """How unevenly tokens go to experts, [] float32; `chosen` where all is even.

    experts x sum over experts of (tokens that chose it / tokens) x (its mean probability); the counts have no gradient
    (Fedus et al., arXiv 2101.03961, equations 4-6).
    """
    probabilities = routing.probabilities.flatten(0, -2)
    experts = probabilities.shape[-1]
    tokens_of_each = rows_of_each(routing.experts, experts)
    return experts * (tokens_of_each * probabilities.mean(0)).sum() / len(probabilities)


def router_z(routing: Routing) -> torch.Tensor:
    """How large the logits are, [] float32: mean over tokens of the log of their sum of exponentials, squared.

    Large logits round badly and make the choice of experts jump (Zoph et al., ST-MoE, arXiv 2202.08906, equation 5).
    """
    return routing.logits.logsumexp(-1).square().mean()
