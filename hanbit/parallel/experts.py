"""Experts over many processes, and the losses that keep them evenly used and their routers' logits small.

Expert peers are neighbours on the data axis: each holds other experts, and each has other tokens. Rows travel to the
peer that holds their expert and come back (Lepikhin et al., GShard, arXiv 2006.16668); how many is told first, so that
no row is dropped or padded. Weights stay at home, so that only rows and their gradients travel.

These losses are of one micro-batch of one layer, as transformers has them, and need no collective: training
minimises their means over sparse layers and micro-batches, which are the same in every layout with the same
batch.micro_batch. Their gradient is added where the layer is, so that hidden states alone travel between stages
(Megatron-LM's MoEAuxLossAutoScaler).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hanbit.models.layers.experts import Experts, Router, Routing, load_balancing, router_z, rows_of_each
from hanbit.parallel.collectives import Purpose, exchange, exchange_counts, leave
from hanbit.parallel.grid import Axis, Grid


@dataclass(frozen=True)
class RouterCoefficients:
    """Weights of the load-balancing loss and of the z-loss; 0: none."""

    balance: float = 0.0
    z: float = 0.0


NO_ROUTER_LOSSES = RouterCoefficients()


class RouterLosses:
    """Of a step: load-balancing and z-loss [2].

    `total`: this process's share of their means, of what backward has passed.
    """

    def __init__(self, coefficients: RouterCoefficients, layers: int, device: torch.device) -> None:
        self.coefficients = torch.tensor([coefficients.balance, coefficients.z], device=device)
        self.layers = layers
        self.share = 0.0
        self.total = torch.zeros(2, device=device)

    def begin(self, micro_batches: int, copies: int) -> None:
        """micro_batches: of all replicas. copies: tensor peers, whose gradients of the router are summed."""
        self.share = 1 / (self.layers * micro_batches * copies)
        self.total.zero_()


class TrainedRouter(Router):
    """A router whose weights bring the gradient of its losses along."""

    losses: RouterLosses

    def forward(self, hidden: torch.Tensor) -> Routing:
        routing = super().forward(hidden)
        if not torch.is_grad_enabled():
            return routing
        own = torch.stack([load_balancing(routing), router_z(routing)])
        return routing._replace(weights=_AddLosses.apply(routing.weights, own, self.losses))


class _AddLosses(torch.autograd.Function):
    """Counted in backward: recompute goes forward twice."""

    @staticmethod
    def forward(context: Any, weights: torch.Tensor, own: torch.Tensor, losses: RouterLosses) -> torch.Tensor:
        context.losses = losses
        context.save_for_backward(own)
        return weights.view_as(weights)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        losses, (own,) = context.losses, context.saved_tensors
        losses.total += own * losses.share
        return gradients[0], losses.coefficients * losses.share, None


class ParallelExperts(Experts):
    """Some of the experts, and of those the tensor rank's part of the inner width."""

    tensor: Axis
    expert: Axis

    def forward(self, hidden: torch.Tensor, routing: Routing) -> torch.Tensor:
        return leave(super().forward(hidden, routing), self.tensor, Purpose.ROW_LEAVE)

    def outputs(self, rows: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        """rows [count, hidden], sorted by expert over all peers -> their outputs in the same order."""
        if self.expert.size == 1:
            return super().outputs(rows, experts)
        sent, got = self.traffic(experts)
        num_sent, num_got = list(map(sum, sent)), list(map(sum, got))
        arrived = exchange(rows, num_sent, num_got, self.expert, Purpose.EXPERT_DISPATCH)
        counts = torch.tensor(got, device=rows.device).flatten()
        ours = torch.arange(len(self.gate), device=rows.device).repeat(self.expert.size)
        order = ours.repeat_interleave(counts, output_size=len(arrived)).argsort(stable=True)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        outputs = self.by_expert(arrived[order], list(map(sum, zip(*got, strict=True))))[back]
        return exchange(outputs, num_got, num_sent, self.expert, Purpose.EXPERT_COMBINE)

    def traffic(self, experts: torch.Tensor) -> tuple[list[list[int]], list[list[int]]]:
        """How many rows go to each peer's each expert, and how many come from each peer to each of ours."""
        sent = rows_of_each(experts, len(self.gate) * self.expert.size).view(self.expert.size, -1)
        got = exchange_counts(sent, self.expert)
        both: list[list[list[int]]] = torch.stack((sent, got)).tolist()
        return both[0], both[1]


def losses_of(model: nn.Module, coefficients: RouterCoefficients, device: torch.device) -> RouterLosses | None:
    """For the whole model; None without sparse layers."""
    layers = sum(isinstance(module, Router) for module in model.modules())
    return RouterLosses(coefficients, layers, device) if layers else None


def swap_experts(model: nn.Module, grid: Grid, losses: RouterLosses | None) -> None:
    """Put the parallel routers and experts in place of the family's own."""
    for module in list(model.modules()):
        if isinstance(module, Router):
            module.__class__ = TrainedRouter
            module.losses = losses  # type: ignore[assignment]
        elif isinstance(module, Experts) and grid.tensor.size * grid.expert.size > 1:
            module.__class__ = ParallelExperts
            module.tensor, module.expert = grid.tensor, grid.expert  # type: ignore[assignment]
