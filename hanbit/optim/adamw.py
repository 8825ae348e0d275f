"""AdamW over plain tensors (Loshchilov and Hutter, arXiv 1711.05101), by torch's fused kernel.

State is kept by parameter name and has the shape of the local piece, so that a checkpoint can reshard it exactly
as it reshards the parameters.
"""

from dataclasses import dataclass

import torch
from torch.optim.adamw import adamw


@dataclass(frozen=True)
class Settings:
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float


class AdamW:
    """`parameters`: local tensors by name, updated in place. `decayed`: the names that weight decay applies to."""

    def __init__(self, parameters: dict[str, torch.Tensor], decayed: set[str], settings: Settings) -> None:
        self.settings = settings
        self.decayed = decayed
        self.first_moment = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        self.second_moment = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        self.steps_done = 0
        self._counters = {
            name: torch.zeros((), dtype=torch.float32, device=tensor.device) for name, tensor in parameters.items()
        }

    @torch.no_grad()
    def step(
        self, parameters: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor], learning_rate: float
    ) -> None:
        """One update of every parameter that has a gradient."""
        for names, decay in self._groups(gradients):
            if names:
                self._update(names, parameters, gradients, learning_rate, decay)
        self.steps_done += 1

    def _groups(self, gradients: dict[str, torch.Tensor]) -> list[tuple[list[str], float]]:
        decayed = [name for name in gradients if name in self.decayed]
        others = [name for name in gradients if name not in self.decayed]
        return [(decayed, self.settings.weight_decay), (others, 0.0)]

    def _update(
        self,
        names: list[str],
        parameters: dict[str, torch.Tensor],
        gradients: dict[str, torch.Tensor],
        learning_rate: float,
        decay: float,
    ) -> None:
        counters = [self._counters[name] for name in names]
        for counter in counters:
            counter.fill_(self.steps_done)
        adamw(
            [parameters[name] for name in names],
            [gradients[name] for name in names],
            [self.first_moment[name] for name in names],
            [self.second_moment[name] for name in names],
            [],
            counters,
            fused=True,
            amsgrad=False,
            beta1=self.settings.betas[0],
            beta2=self.settings.betas[1],
            lr=learning_rate,
            weight_decay=decay,
            eps=self.settings.epsilon,
            maximize=False,
        )
