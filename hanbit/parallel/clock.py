"""Where the time of a training step goes: every moment of it belongs to one phase.

Phases nest, and the inner one takes the time from the outer: a collective in the forward pass is communication, and
what a pipeline's schedule spends outside of its stage's passes is waiting. On a GPU the moments are events of its
stream, read once after the step, so that nothing waits for the device because it is measured. What FSDP2 sends by
itself, and collectives inside of compiled graphs, count as the phase around them.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import torch


class Phase(StrEnum):
    DATA = "data"
    FORWARD_BACKWARD = "forward_backward"
    COMMUNICATION = "communication"
    PIPELINE_IDLE = "pipeline_idle"  # waiting for a neighbour's hidden states or gradients
    OPTIMIZER = "optimizer"  # norm, clipping and update
    OTHER = "other"


class StepClock:
    """Started for a step and stopped after it; while it stands, phases cost nothing and count nothing.

    is_traced: phases are also annotations of torch.profiler.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.is_traced = False
        self._now = now
        self._mark: Callable[[], Any] = now
        self._open: list[Phase] = []
        self._marks: list[tuple[Phase, Any]] = []

    def start(self, device: torch.device) -> None:
        self._mark = _event if device.type == "cuda" else self._now
        self._open = [Phase.OTHER]
        self._marks = [(Phase.OTHER, self._mark())]

    @contextlib.contextmanager
    def phase(self, phase: Phase, name: str = "") -> Iterator[None]:
        """name: what it is called in a trace, where that tells more than the phase. Not traceable by torch.compile."""
        if not self._open:
            yield
            return
        self._open.append(phase)
        self._marks.append((phase, self._mark()))
        try:
            with torch.profiler.record_function(name or phase) if self.is_traced else contextlib.nullcontext():
                yield
        finally:
            if self._open:
                self._open.pop()
                self._marks.append((self._open[-1], self._mark()))

    def stop(self) -> dict[Phase, float]:
        """Seconds by phase since the start; together they are the whole step. On a GPU it waits for the last event."""
        marks = [*self._marks, (Phase.OTHER, self._mark())]
        self._open, self._marks = [], []
        seconds = dict.fromkeys(Phase, 0.0)
        if isinstance(marks[-1][1], torch.cuda.Event):
            marks[-1][1].synchronize()
        for (phase, mark), (_, after) in itertools.pairwise(marks):
            seconds[phase] += _between(mark, after)
        return seconds


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(mark: Any, after: Any) -> float:
    return mark.elapsed_time(after) / 1000 if isinstance(mark, torch.cuda.Event) else after - mark


CLOCK = StepClock()
"""This process's: a step is one at a time, and collectives are called from everywhere in it."""
