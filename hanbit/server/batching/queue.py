"""Who waits for a model, in the order in which they go: by level, then as they came. No clock: the time is told.

A level's policy bounds how many wait and how long; who waited too long is refused, or goes behind the others of the
level. Times are nanoseconds of one clock.
"""

import heapq
import itertools
from collections.abc import Hashable, Iterator, Sequence

from hanbit.server.batching.options import QueuePolicy


class QueueFull(Exception):
    """As many wait as may. `limit`: how many that is."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} requests wait already")
        self.limit = limit


class Waiting:
    """One who waits. `rows`: its share of a batch; `shapes`: equal for requests that may go together; `level`: its
    priority, 0 is the first; `may_wait_ns`: of its own wish, 0 is no wish; `since`: when it came."""

    __slots__ = ("level", "may_wait_ns", "place", "rows", "shapes", "since")

    def __init__(self, rows: int = 1, shapes: Hashable = None, level: int = 0, may_wait_ns: int = 0) -> None:
        self.rows, self.shapes, self.level, self.may_wait_ns = rows, shapes, level, may_wait_ns
        self.since = 0
        self.place: dict[Waiting, None] | None = None  # where it stands, None once it does not wait


class WaitingQueue:
    def __init__(self, levels: Sequence[QueuePolicy] = (QueuePolicy(),)) -> None:
        self._policies = tuple(levels)
        self._in_time: list[dict[Waiting, None]] = [{} for _ in levels]  # dicts: in order, and left from the midst
        self._late: list[dict[Waiting, None]] = [{} for _ in levels]
        self._ends: list[tuple[int, int, Waiting]] = []  # a heap of when who has waited long enough
        self._counter = itertools.count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Waiting]:
        """In the order in which they go."""
        for in_time, late in zip(self._in_time, self._late, strict=True):
            yield from in_time
            yield from late

    def put(self, one: Waiting, now: int) -> None:
        """Raises QueueFull."""
        policy = self._policies[one.level]
        if len(self._in_time[one.level]) + len(self._late[one.level]) >= policy.max_size:
            raise QueueFull(policy.max_size)
        one.since, one.place = now, self._in_time[one.level]
        one.place[one] = None
        self._size += 1
        limit = _limit(policy, one)
        if limit:
            heapq.heappush(self._ends, (now + limit, next(self._counter), one))

    def take(self, one: Waiting) -> bool:
        """It waits no longer; False if it did not."""
        if one.place is None:
            return False
        del one.place[one]
        one.place = None
        self._size -= 1
        return True

    def expired(self, now: int) -> list[Waiting]:
        """Those who waited too long and are refused; they are no longer in the queue."""
        refused = []
        while self._ends and self._ends[0][0] <= now:
            one = heapq.heappop(self._ends)[2]
            if one.place is None:
                continue
            self.take(one)
            if self._policies[one.level].delays:
                one.place = self._late[one.level]
                one.place[one] = None
                self._size += 1
            else:
                refused.append(one)
        return refused

    @property
    def next_end(self) -> int | None:
        """When `expired` may have someone next."""
        while self._ends and self._ends[0][2].place is None:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None


def _limit(policy: QueuePolicy, one: Waiting) -> int:
    if policy.requests_may_shorten and one.may_wait_ns:
        return min(one.may_wait_ns, policy.timeout_ns or one.may_wait_ns)
    return policy.timeout_ns
