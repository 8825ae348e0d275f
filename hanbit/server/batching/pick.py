"""Who of a queue goes now, and together. Pure: a queue and the time in, a choice out.

Triton's rules. Without dynamic batching each request goes alone. With it requests go in their order, joined as long as
their shapes are equal and the batch has room: the largest preferred size that they make goes at once; otherwise what
there is waits for more, as long as the first of them may be delayed, unless nobody can join it any more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hanbit.server.batching.options import BatchOptions
from hanbit.server.batching.queue import Waiting


@dataclass(frozen=True)
class Choice:
    """`batch`: who goes, none is nobody yet; `again_at`: when to look again though nobody comes."""

    batch: tuple[Waiting, ...] = ()
    again_at: int | None = None


def choose(queue: Iterable[Waiting], options: BatchOptions, now: int) -> Choice:
    if not options.is_dynamic:
        return Choice(tuple(_first(queue)))
    fitting, can_grow = _fitting(queue, options.max_rows)
    if not fitting:
        return Choice()
    ends = [0]
    for one in fitting:
        ends.append(ends[-1] + one.rows)
    for rows in reversed(options.preferred_rows):
        if rows in ends:
            return Choice(tuple(fitting[: ends.index(rows)]))
    again_at = min(one.since for one in fitting) + options.max_delay_ns
    largest = options.preferred_rows[-1] if options.preferred_rows else options.max_rows
    if can_grow and ends[-1] < largest and now < again_at:
        return Choice((), again_at)
    return Choice(tuple(fitting))


def _first(queue: Iterable[Waiting]) -> list[Waiting]:
    return [one for one, _ in zip(queue, range(1), strict=False)]


def _fitting(queue: Iterable[Waiting], max_rows: int) -> tuple[list[Waiting], bool]:
    """From the front, who can go together; and whether one more could."""
    found: list[Waiting] = []
    rows = 0
    for one in queue:
        if found and (rows + one.rows > max_rows or one.shapes != found[0].shapes):
            return found, False
        found.append(one)
        rows += one.rows
    return found, rows < max_rows
