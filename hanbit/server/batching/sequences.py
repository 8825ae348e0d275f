"""Which sequence is where, and which of its requests goes now. Pure: no clock, no event loop, no tensors.

A sequence belongs to one instance from its first request to its last, because that instance remembers it. Its
requests go one after another. `direct` gives it a slot, a row of every batch, which is its own; `oldest` lets the
instance mix what has waited longest. Sequences that find no place wait for one; one of which nobody has heard for long
loses its own.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from hanbit.server.batching.options import BatchOptions
from hanbit.server.batching.pick import Choice, choose
from hanbit.server.batching.queue import QueueFull, Waiting


class NotBegun(Exception):
    """A request of a sequence that nobody has begun, or that has ended."""


@dataclass(frozen=True)
class SequenceOptions:
    """`slots`: sequences of an instance; `idle_ns`: how long a sequence may be silent; `least_share`: of an instance's
    sequences that must be ready before `max_delay_ns` of `batch` has passed (direct)."""

    is_direct: bool
    slots: int
    idle_ns: int
    batch: BatchOptions
    least_share: float = 0.0
    max_waiting: int = 1024


@dataclass(eq=False)
class _Sequence:
    """`place`: instance and slot, None while it waits for one; `is_open`: it may go on without beginning again."""

    id: Hashable
    place: tuple[int, int] | None = None
    waiting: "deque[_Step]" = field(default_factory=deque)
    running: "_Step | None" = None
    is_open: bool = True
    last: int = 0


@dataclass(eq=False)
class _Step:
    one: Waiting
    sequence: _Sequence
    begins: bool
    ends: bool


class Sequences:
    """Iterates over who waits; `take` lets one leave. What else can no longer be answered then is in `orphans`."""

    def __init__(self, num_instances: int, options: SequenceOptions) -> None:
        self.options = options
        self.orphans: list[Waiting] = []
        self._by_id: dict[Hashable, _Sequence] = {}
        self._slots: list[dict[int, _Sequence]] = [{} for _ in range(num_instances)]
        self._backlog: deque[_Sequence] = deque()
        self._steps: dict[Waiting, _Step] = {}  # that wait or run
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> Iterator[Waiting]:
        return iter([step.one for sequence in self._by_id.values() for step in sequence.waiting])

    @property
    def num_sequences(self) -> int:
        return len(self._by_id)

    @property
    def next_end(self) -> int | None:
        """When a silent sequence may lose its place to one that waits."""
        if not self._backlog:
            return None
        silent = [one.last for slots in self._slots for one in slots.values() if _is_silent(one)]
        return min(silent) + self.options.idle_ns if silent else None

    def arrive(self, id: Hashable, one: Waiting, begins: bool, ends: bool, now: int) -> None:
        """Raises NotBegun, QueueFull."""
        self.expire(now)
        sequence = self._by_id.get(id)
        if not begins and (sequence is None or not sequence.is_open):
            raise NotBegun
        if self._num_waiting >= self.options.max_waiting:
            raise QueueFull(self.options.max_waiting)
        if sequence is None:
            sequence = self._by_id[id] = _Sequence(id)
            self._backlog.append(sequence)
        step = _Step(one, sequence, begins, ends)
        self._steps[one] = step
        sequence.waiting.append(step)
        self._num_waiting += 1
        sequence.is_open, sequence.last, one.since = not ends, now, now
        self._fill()

    def choose(self, instance: int, now: int) -> Choice:
        """Who may go to an instance that is free; `begin` is to be called with them."""
        ready = [one for one in self._slots[instance].values() if one.waiting and one.running is None]
        heads = sorted((one.waiting[0].one for one in ready), key=lambda one: one.since)
        if not heads:
            return Choice()
        if not self.options.is_direct:
            return choose(heads, self.options.batch, now)
        together = [one for one in heads if one.shapes == heads[0].shapes]
        again_at = heads[0].since + self.options.batch.max_delay_ns
        if len(together) < self.options.least_share * len(self._slots[instance]) and now < again_at:
            return Choice((), again_at)
        return Choice(tuple(sorted(together, key=self.slot_of)))

    def begin(self, one: Waiting) -> None:
        step = self._steps[one]
        assert step.sequence.waiting[0] is step
        assert step.sequence.running is None
        step.sequence.waiting.popleft()
        step.sequence.running = step
        self._num_waiting -= 1

    def ended(self, one: Waiting, now: int) -> None:
        """It has been computed, or has failed; nothing if its sequence is gone."""
        step = self._steps.pop(one, None)
        if step is None:
            return
        sequence = step.sequence
        sequence.running, sequence.last = None, now
        if step.ends:
            self._let_go(sequence)

    def take(self, one: Waiting) -> bool:
        """It waits no longer; False if it did not. Without its beginning a sequence is over."""
        step = self._steps.get(one)
        if step is None or step.sequence.running is step:
            return False
        sequence, after = step.sequence, list(step.sequence.waiting)
        index = after.index(step)
        self._forget(step)
        if step.begins:
            rest = after[index + 1 :]
            orphaned = rest[: next((place for place, other in enumerate(rest) if other.begins), len(rest))]
            for other in orphaned:
                self._forget(other)
                self.orphans.append(other.one)
            if len(orphaned) == len(rest):
                sequence.is_open = False
        if not sequence.is_open:
            self._let_go(sequence)
        return True

    def expire(self, now: int) -> None:
        """Sequences of which nobody has heard for so long are over."""
        for slots in self._slots:
            for sequence in list(slots.values()):
                if _is_silent(sequence) and sequence.last + self.options.idle_ns <= now:
                    self._let_go(sequence)

    def drop(self, instance: int) -> list[Waiting]:
        """An instance that has forgotten all: its sequences are over. Those of their requests that wait."""
        lost = []
        for sequence in list(self._slots[instance].values()):
            for step in list(sequence.waiting):
                self._forget(step)
                lost.append(step.one)
            if sequence.running is not None:
                self._steps.pop(sequence.running.one, None)
                sequence.running = None
            self._let_go(sequence)
        return lost

    def slot_of(self, one: Waiting) -> int:
        place = self._steps[one].sequence.place
        assert place is not None
        return place[1]

    def is_known(self, id: Hashable) -> bool:
        return id in self._by_id

    def _forget(self, step: _Step) -> None:
        step.sequence.waiting.remove(step)
        del self._steps[step.one]
        self._num_waiting -= 1

    def _let_go(self, sequence: _Sequence) -> None:
        """Unless it has begun again, or something of it still runs."""
        if sequence.waiting or sequence.running is not None:
            return
        del self._by_id[sequence.id]
        if sequence.place is None:
            self._backlog.remove(sequence)
            return
        instance, slot = sequence.place
        del self._slots[instance][slot]
        self._fill()

    def _fill(self) -> None:
        """Places to those who wait for one: at the instance with the fewest sequences, in its first free slot."""
        while self._backlog:
            instance = min(range(len(self._slots)), key=lambda index: len(self._slots[index]))
            used = self._slots[instance]
            if len(used) >= self.options.slots:
                return
            slot = next(index for index in range(len(used) + 1) if index not in used)
            sequence = self._backlog.popleft()
            sequence.place = (instance, slot)
            used[slot] = sequence


def _is_silent(sequence: _Sequence) -> bool:
    return not sequence.waiting and sequence.running is None
