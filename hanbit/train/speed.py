"""How fast a run is, by the convention of models/flops.py, how much memory it takes, and when it will be done."""

import resource
import statistics
import sys
from collections import deque
from dataclasses import dataclass, field

import torch

from hanbit.common.capability import Processor
from hanbit.config.recipe import Recipe
from hanbit.models.flops import flops_per_token
from hanbit.parallel.grid import Grid

_RECENT_STEPS = 20
_COUNTED = ("gpt", "llama")  # each token meets every matrix once: not so with experts, or an encoder beside a decoder


@dataclass
class Speed:
    """`flops_per_step`: model FLOPs of one global batch; None where the widths of its sequences differ (tuning), and
    for families that the convention does not count yet.

    peak_flops_per_second: of all devices together; None where it is not known.
    """

    device: torch.device
    flops_per_step: float | None
    peak_flops_per_second: float | None
    recent_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))

    def numbers(self, seconds: float, steps_left: int) -> dict[str, float | None]:
        """For metrics.jsonl, after a step that took `seconds`."""
        self.recent_seconds.append(seconds)
        flops, peak = self.flops_per_step, self.peak_flops_per_second
        speed = None if flops is None else flops / seconds
        return {
            "model_flops_per_second": speed,
            "mfu": None if speed is None or peak is None else speed / peak,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "time_left_seconds": steps_left * statistics.median(self.recent_seconds),
        }


def speed_of(recipe: Recipe, grid: Grid) -> Speed:
    batch = recipe.batch
    flops = None
    if recipe.tuning is None and recipe.model.family in _COUNTED:
        tokens = batch.global_batch * batch.sequence_length
        flops = flops_per_token(recipe.model, batch.sequence_length).full * tokens
    peak = recipe.logging.peak_flops_per_second
    if peak is None:
        peak = processor_of(grid.device).peak_flops_per_second.get(recipe.training.precision)
    return Speed(grid.device, flops, None if peak is None else peak * grid.size)


def processor_of(device: torch.device) -> Processor:
    if device.type != "cuda":
        return Processor("CPU")
    return Processor(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))


def peak_memory_bytes(device: torch.device) -> int:
    """Of this process so far: what torch has allocated on its GPU, or its resident set on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
