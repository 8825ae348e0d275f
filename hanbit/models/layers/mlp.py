"""The kinds of MLP between attentions."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

Activation = Callable[[torch.Tensor], torch.Tensor]


def gelu_tanh(inputs: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh form, as GPT-2 has it."""
    return F.gelu(inputs, approximate="tanh")


ACTIVATIONS: dict[str, Activation] = {"gelu": F.gelu, "gelu_tanh": gelu_tanh, "relu": F.relu}


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202); SiLU unless told otherwise."""

    def __init__(self, hidden: int, inner: int, bias: bool, activation: Activation = F.silu) -> None:
        super().__init__()
        self.activation = activation
        self.gate = nn.Linear(hidden, inner, bias=bias)
        self.up = nn.Linear(hidden, inner, bias=bias)
        self.down = nn.Linear(inner, hidden, bias=bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down(self.activation(self.gate(hidden)) * self.up(hidden))


class PlainMLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, hidden: int, inner: int, bias: bool, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(hidden, inner, bias=bias)
        self.down = nn.Linear(inner, hidden, bias=bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down(self.activation(self.up(hidden)))
