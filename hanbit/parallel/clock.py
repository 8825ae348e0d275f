"""Where the time of a training step goes: every moment of it belongs to one phase.

Phases nest, and the inner one takes the time from the outer: a collective in the forward pass is communication, and
what a pipeline's schedule spends outside of its stage's passes is waiting. On a GPU the moments are events of its
stream, read once after the step, so that nothing waits for the device because it is measured. Collectives inside of
compiled graphs count as the phase around them.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import torch


class Phase(StrEnum):
    DATA = "data"
    FORWARD_BACKWARD = "forward_backward"
    COMMUNICATION = "communication"
    PIPELINE_IDLE = "pipeline_idle"  # waiting for a neighbour's hidden states or gradients
    OPTIMIZER = "optimizer"  # norm, clipping and update
    OTHER = "other"


class Span(NamedTuple):
    """One phase from its beginning to its end, for a trace; phases inside of it are spans of their own.

    start: seconds since `record`. about: numbers of what it worked on, such as bytes or micro_batch.
    """

    phase: Phase
    name: str
    start: float
    seconds: float
    about: dict[str, int]


class StepClock:
    """Started for a step and stopped after it; while it stands, phases count nothing.

    Between `record` and `recorded` each phase is also kept as a span, whether the clock stands or not.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._mark: Callable[[], Any] = now
        self._open: list[Phase] = []
        self._marks: list[tuple[Phase, Any]] = []
        self._recorded_since: Any = None
        self._spans: list[tuple[Phase, str, Any, Any, dict[str, int]]] = []

    def start(self, device: torch.device) -> None:
        self._mark = self._mark_of(device)
        self._open = [Phase.OTHER]
        self._marks = [(Phase.OTHER, self._mark())]

    @contextlib.contextmanager
    def phase(self, phase: Phase, name: str = "", **about: int) -> Iterator[None]:
        """name, about: of its span. Not traceable by torch.compile."""
        if self._recorded_since is None and self._open[-1:] in ([], [phase]):  # nothing to count
            yield
            return
        is_counted, begin = bool(self._open), self._mark()
        if is_counted:
            self._open.append(phase)
            self._marks.append((phase, begin))
        try:
            yield
        finally:
            end = self._mark()
            if is_counted and self._open:
                self._open.pop()
                self._marks.append((self._open[-1], end))
            if phase is not Phase.PIPELINE_IDLE:  # `stop` knows when a pipeline waits
                self._keep(phase, name or phase, begin, end, about)

    @contextlib.contextmanager
    def beside(self, name: str, **about: int) -> Iterator[None]:
        """A span of what another stream of the device does meanwhile: it takes no time from any phase."""
        if self._recorded_since is None:
            yield
            return
        begin = self._mark()
        try:
            yield
        finally:
            self._keep(Phase.COMMUNICATION, name, begin, self._mark(), about)

    def stop(self) -> dict[Phase, float]:
        """Seconds by phase since the start; together they are the whole step. On a GPU it waits for the last event."""
        marks = [*self._marks, (Phase.OTHER, self._mark())]
        self._open, self._marks = [], []
        seconds = dict.fromkeys(Phase, 0.0)
        _wait_for(marks[-1][1])
        for (phase, mark), (_, after) in itertools.pairwise(marks):
            seconds[phase] += _between(mark, after)
            if phase is Phase.PIPELINE_IDLE:
                self._keep(phase, phase, mark, after, {})
        self._keep(Phase.OTHER, "step", marks[0][1], marks[-1][1], {})
        return seconds

    def record(self, device: torch.device) -> None:
        """Keep spans from now on."""
        self._mark = self._mark_of(device)
        self._recorded_since, self._spans = self._mark(), []

    def recorded(self) -> list[Span]:
        """The spans since `record`, and no more of them. A step itself is one of phase "other"."""
        since, spans = self._recorded_since, self._spans
        self._recorded_since, self._spans = None, []
        _wait_for(self._mark())
        return [
            Span(phase, name, _between(since, begin), _between(begin, end), about)
            for phase, name, begin, end, about in spans
        ]

    def _keep(self, phase: Phase, name: str, begin: Any, end: Any, about: dict[str, int]) -> None:
        if self._recorded_since is not None:
            self._spans.append((phase, name, begin, end, about))

    def _mark_of(self, device: torch.device) -> Callable[[], Any]:
        return _event if device.type == "cuda" else self._now


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _wait_for(mark: Any) -> None:
    if isinstance(mark, torch.cuda.Event):
        mark.synchronize()


def _between(mark: Any, after: Any) -> float:
    return mark.elapsed_time(after) / 1000 if isinstance(mark, torch.cuda.Event) else after - mark


CLOCK = StepClock()
"""This process's: a step is one at a time, and collectives are called from everywhere in it."""
