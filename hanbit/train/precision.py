"""The scaling of the loss that training in fp16 needs.

fp16 holds nothing below 6e-8: small gradients vanish. The loss is therefore multiplied before the backward pass and
the gradients divided after it, in float32. A scale too large shows as gradients that are not finite: such a step is
skipped and the scale halved; after a while without one it doubles (Micikevicius et al., arXiv 1710.03740, section 3.2;
the same numbers as torch.amp.GradScaler).
"""

import math
from dataclasses import dataclass

from hanbit.common.errors import TrainingError
from hanbit.config.recipe import Recipe

GROWTH, BACKOFF = 2.0, 0.5
LOWEST = 1.0  # gradients that are not finite without any scaling are no matter of the scale


@dataclass
class LossScale:
    """`window`: steps in a row with finite gradients after which the scale doubles.

    The same on every process, for what it follows, the norm of all gradients, is the same.
    """

    scale: float = 65536.0
    window: int = 2000
    good_steps: int = 0
    skipped_steps: int = 0

    def update(self, norm: float) -> bool:
        """After a backward pass, with the norm of its scaled gradients over the whole world: may the step be taken?

        Raises TrainingError where the scale is at its lowest and the gradients are still not finite.
        """
        if math.isfinite(norm):
            self.good_steps += 1
            if self.good_steps == self.window:
                self.scale, self.good_steps = self.scale * GROWTH, 0
            return True
        if self.scale <= LOWEST:
            raise TrainingError(
                f"the gradients are not finite with a loss scale of {self.scale:g} either: it is not fp16's narrow "
                "range. Start again to continue from the last checkpoint, with a lower optimizer.learning_rate or "
                "training.precision=fp32, or look at the data"
            )
        self.scale, self.good_steps = max(LOWEST, self.scale * BACKOFF), 0
        self.skipped_steps += 1
        return False

    def state(self) -> dict[str, float | int]:
        """For the checkpoint."""
        return {"scale": self.scale, "good_steps": self.good_steps, "skipped_steps": self.skipped_steps}

    def take_up(self, state: dict[str, float | int]) -> None:
        """Continue from `state`; a run that had no scale before keeps its fresh one."""
        if state:
            self.scale = float(state["scale"])
            self.good_steps, self.skipped_steps = int(state["good_steps"]), int(state["skipped_steps"])


def build_loss_scale(recipe: Recipe) -> LossScale | None:
    """Of a run in fp16; None in others, whose gradients have float32's range."""
    training = recipe.training
    if training.precision != "fp16":
        return None
    return LossScale(training.initial_loss_scale, training.loss_scale_window)
