"""When one request was where, in nanoseconds of the monotonic clock: for statistics and traces.

start ─ queue ─ begin ─ input_end ─ output_start ─ end    0: it has not been there. A back end without a queue leaves
begin, input_end and output_start to `ServedModel`, for which all the time is computing.
"""

import time


class Batch:
    """What was computed at once, of several requests perhaps; it is counted as one execution, by the first of them that
    succeeds."""

    __slots__ = ("is_counted", "rows")

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.is_counted = False


class Moments:
    """`batch`: that this request was computed in; None: alone. `is_cached`: it was answered without computing."""

    __slots__ = ("batch", "begin", "input_end", "is_cached", "output_start", "start")

    def __init__(self) -> None:
        self.start = time.monotonic_ns()
        self.begin = self.input_end = self.output_start = 0
        self.batch: Batch | None = None
        self.is_cached = False

    def parts(self, end: int) -> tuple[int, int, int, int]:
        """Nanoseconds in the queue, and of compute's input, computing and output, which make up the whole."""
        begin = self.begin or self.start
        input_end = max(begin, self.input_end)
        output_start = min(max(input_end, self.output_start or end), end)
        input_end = min(input_end, output_start)
        return begin - self.start, input_end - begin, output_start - input_end, end - output_start
