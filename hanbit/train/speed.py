"""How fast a run is, by the convention of models/flops.py, how much memory it takes, and when it will be done."""

import resource
import statistics
import sys
from collections import deque
from dataclasses import dataclass, field

import torch

from hanbit.common.capability import Processor
from hanbit.config.model import BertConfig, T5Config
from hanbit.config.recipe import Recipe
from hanbit.data.masked import num_hidden, room_of
from hanbit.data.spans import lengths_for
from hanbit.models.flops import Tokens, flops_per_sequence
from hanbit.parallel.grid import Grid

_RECENT_STEPS = 20


@dataclass
class Speed:
    """`flops_per_step`: model FLOPs of one global batch; None where the widths of its sequences differ (tuning).

    peak_flops_per_second: of all devices together; None where it is not known.
    """

    device: torch.device
    flops_per_step: float | None
    peak_flops_per_second: float | None
    recent_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))

    def numbers(self, seconds: float, steps_left: int, share: float = 1.0) -> dict[str, float | None]:
        """For metrics.jsonl, after a step that took `seconds` and saw that share of a full global batch."""
        self.recent_seconds.append(seconds)
        flops, peak = self.flops_per_step, self.peak_flops_per_second
        speed = None if flops is None else flops * share / seconds
        return {
            "model_flops_per_second": speed,
            "mfu": None if speed is None or peak is None else speed / peak,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "time_left_seconds": steps_left * statistics.median(self.recent_seconds),
        }


def speed_of(recipe: Recipe, grid: Grid) -> Speed:
    flops = flops_per_step(recipe) if recipe.tuning is None else None
    peak = recipe.logging.peak_flops_per_second
    if peak is None:
        peak = processor_of(grid.device).peak_flops_per_second.get(recipe.training.precision)
    return Speed(grid.device, flops, None if peak is None else peak * grid.size)


def flops_per_step(recipe: Recipe) -> float:
    """Model FLOPs of one global batch whose rows are full, by the `full` convention."""
    model, length, said, written = recipe.model, recipe.batch.sequence_length, None, 0
    if isinstance(model, BertConfig):
        said = int(num_hidden(room_of(length, model.sentence_order)))
    if isinstance(model, T5Config):
        written = lengths_for(length).decoder
    flops = flops_per_sequence(model, Tokens(length, said, written), is_frozen=recipe.tuning is not None)
    return flops.full * recipe.batch.global_batch


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
