"""Chosen steps as files that ui.perfetto.dev opens: who did what, when, on all processes under one another.

The format is Chrome's trace events as JSON (Duan and others, "Trace Event Format", 2016): complete events, one process
of the picture for each rank, one of its threads for each lane.
"""

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hanbit.common.atomic import write_text
from hanbit.config.recipe import TraceSection
from hanbit.parallel.agree import to_first
from hanbit.parallel.clock import CLOCK, Phase, Span
from hanbit.parallel.collectives import Purpose
from hanbit.parallel.grid import Grid

logger = logging.getLogger(__name__)

STEP, COMMUNICATION, GATHERING, REDUCING, WAITING, FIRST_STAGE = range(6)
LANES = {
    STEP: "step",
    COMMUNICATION: "communication",
    GATHERING: "FSDP2 gathers weights",
    REDUCING: "FSDP2 reduces gradients",
    WAITING: "waiting in the pipeline",
}
_BESIDE: dict[str, int] = {Purpose.SHARD_GATHER: GATHERING, Purpose.SHARD_REDUCE: REDUCING}
"""What a GPU sends on streams of their own crosses the rest, which a viewer drops in one lane."""


class Recording(NamedTuple):
    """Of one rank. began: seconds since 1970 when its spans' clock was zero. place: its ranks on the grid's axes."""

    rank: int
    place: str
    began: float
    spans: list[Span]


class Trace:
    """Writes `folder`/step-000010.json for each chosen step; `wanted` None: nothing, at no cost."""

    def __init__(self, wanted: TraceSection | None, folder: Path, grid: Grid) -> None:
        self.wanted, self.folder, self.grid = wanted, folder, grid

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around step `number` and what is due after it, on every rank."""
        if self.wanted is None or number not in self.wanted.steps:
            yield
            return
        is_chosen = self.wanted.ranks == "all" or self.grid.rank in self.wanted.ranks
        began = time.time()
        if is_chosen:
            CLOCK.record(self.grid.device)
        try:
            yield
        finally:
            spans = CLOCK.recorded()
        found = to_first(Recording(self.grid.rank, place_of(self.grid), began, spans) if is_chosen else None)
        if found is not None:
            self._write(number, [one for one in found if one is not None])

    def _write(self, number: int, recordings: list[Recording]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / f"step-{number:06d}.json", text_of(recordings))
        except OSError as problem:  # a run is worth more than its picture
            logger.warning("no trace of step %d: %s", number, problem)


def place_of(grid: Grid) -> str:
    axes = (grid.pipeline, grid.data, grid.context, grid.tensor)
    return ", ".join(f"{axis.name} {axis.rank}" for axis in axes if axis.size > 1)


def text_of(recordings: Sequence[Recording]) -> str:
    """The whole file. Times are microseconds since the first rank began; clocks of several machines may differ."""
    zero = min((one.began for one in recordings), default=0.0)
    events = [event for one in recordings for event in (*_names(one), *_spans(one, zero))]
    events.sort(key=lambda event: (event["ph"] != "M", event.get("ts", 0), -event.get("dur", 0)))
    lines = ",\n".join(json.dumps(event) for event in events)
    return f'{{"displayTimeUnit": "ms", "traceEvents": [\n{lines}\n]}}\n'


def lane_of(span: Span) -> int:
    if span.phase is Phase.COMMUNICATION:
        return _BESIDE.get(span.name, COMMUNICATION)
    if span.phase is Phase.PIPELINE_IDLE:
        return WAITING
    return FIRST_STAGE + span.about["stage"] if "stage" in span.about else STEP


def _names(recording: Recording) -> Iterator[dict[str, Any]]:
    """Metadata events: what the rank and its lanes are called, and their order from above."""
    place = f" ({recording.place})" if recording.place else ""
    yield _named(recording.rank, 0, "process_name", name=f"rank {recording.rank}{place}")
    yield _named(recording.rank, 0, "process_sort_index", sort_index=recording.rank)
    for lane in sorted({lane_of(span) for span in recording.spans}):
        name = LANES.get(lane, f"stage {lane - FIRST_STAGE}")
        yield _named(recording.rank, lane, "thread_name", name=name)
        yield _named(recording.rank, lane, "thread_sort_index", sort_index=lane)


def _named(rank: int, lane: int, kind: str, **about: str | int) -> dict[str, Any]:
    return {"ph": "M", "pid": rank, "tid": lane, "name": kind, "args": about}


def _spans(recording: Recording, zero: float) -> Iterator[dict[str, Any]]:
    """Complete events. Both ends are rounded alike to nanoseconds, so that what lies inside another stays inside."""
    for span in recording.spans:
        begin = round((recording.began - zero + span.start) * 1e9)
        end = round((recording.began - zero + span.start + span.seconds) * 1e9)
        yield {
            "ph": "X",
            "pid": recording.rank,
            "tid": lane_of(span),
            "ts": begin / 1000,
            "dur": (end - begin) / 1000,
            "name": span.name,
            "cat": str(span.phase),
            "args": span.about,
        }
