"""One batch that several iterators work off, whoever is asked next: the engine of a program without a server.

An iterator that is asked for a piece makes steps until it has one; what a step brings the others is kept for them.
"""

import threading
from collections import deque
from collections.abc import Iterator

from hanbit.common.errors import GenerationError
from hanbit.engine.batch import Batch, CacheCounts, Event
from hanbit.engine.drafts import SpeculationCounts
from hanbit.engine.output import Piece
from hanbit.engine.sequence import Sequence


class Turns:
    """Safe between threads: steps are made one at a time."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._lock = threading.Lock()
        self._kept: dict[Sequence, deque[Event]] = {}  # one deque for all of an iterator's sequences
        self._left: deque[Sequence] = deque()

    @property
    def cache_counts(self) -> CacheCounts:
        with self._lock:
            self._let_go()
            return self._batch.cache_counts

    @property
    def speculation_counts(self) -> SpeculationCounts:
        with self._lock:
            return self._batch.speculation_counts

    def let_go(self, sequence: Sequence) -> None:
        """Of a session that is over this was the last turn."""
        with self._lock:
            self._batch.let_go(sequence)

    def answer(self, sequences: list[Sequence]) -> Iterator[Piece]:
        """Pieces of all of them, until all have ended. Raises what goes wrong; closing it ends the work."""
        events: deque[Event] = deque()
        try:
            with self._lock:
                for sequence in sequences:
                    self._batch.add(sequence)
                    self._kept[sequence] = events
            left = len(sequences)
            while left:
                _, event = self._next(events)
                if isinstance(event, GenerationError):
                    raise event
                left -= event.finish_reason is not None
                yield event
        finally:
            self._left.extend(sequences)
            # An iterator that nobody holds may be closed in the midst of a step, by the thread that makes it: then
            # that step lets go of them.
            if self._lock.acquire(blocking=False):
                try:
                    self._let_go()
                finally:
                    self._lock.release()

    def _let_go(self) -> None:
        while self._left:
            sequence = self._left.popleft()
            self._batch.remove(sequence)
            self._kept.pop(sequence, None)

    def _next(self, events: deque[Event]) -> Event:
        while True:
            with self._lock:
                if events:
                    return events.popleft()
                for event in self._batch.step():
                    self._kept[event[0]].append(event)
                self._let_go()
