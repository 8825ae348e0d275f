"""The learning rate of every step: linear warm-up, then constant or cosine down to a floor (arXiv 1608.03983)."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    kind: Literal["cosine", "constant"]
    highest: float
    lowest: float
    warmup_steps: int
    steps: int

    def learning_rate(self, step: int) -> float:
        """Of the `step`-th step, counted from 1. Step `warmup_steps` has the highest, the last one the lowest."""
        if step <= self.warmup_steps:
            return self.highest * step / self.warmup_steps
        if self.kind == "constant":
            return self.highest
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lowest + (self.highest - self.lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
