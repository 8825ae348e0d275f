"""What a model has done: counts and nanoseconds, as the statistics extension of the v2 protocol reports them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Duration:
    count: int = 0
    ns: int = 0

    def add(self, nanoseconds: int) -> None:
        self.count += 1
        self.ns += nanoseconds

    def as_json(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass
class Executions:
    """Of a model that takes batches: how long requests waited, and what was executed of how many rows."""

    waited: Duration = field(default_factory=Duration)
    rows: int = 0
    batches: dict[int, Duration] = field(default_factory=dict)  # by their rows

    def executed(self, rows: int, nanoseconds: int) -> None:
        self.rows += rows
        self.batches.setdefault(rows, Duration()).add(nanoseconds)

    @property
    def count(self) -> int:
        return sum(one.count for one in self.batches.values())

    def batches_as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "batch_size": rows,
                "compute_input": {"count": one.count, "ns": 0},
                "compute_infer": one.as_json(),
                "compute_output": {"count": one.count, "ns": 0},
            }
            for rows, one in sorted(self.batches.items())
        ]


@dataclass
class Statistics:
    """Of one model version since it was loaded. Changed on the event loop only. `executions`: of a back end that takes
    batches; without them each request is one execution, at once."""

    last_inference_ms: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    responses: dict[int, Duration] = field(default_factory=dict)
    executions: Executions | None = None

    def succeeded(self, nanoseconds: int) -> None:
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.success.add(nanoseconds)
        self.infer.add(nanoseconds)

    def responded(self, index: int, nanoseconds: int) -> None:
        """The time since the request began, or since the response before. Long answers are counted together."""
        self.responses.setdefault(min(index, _MOST_INDICES), Duration()).add(nanoseconds)

    def as_json(self, name: str, version: str, is_decoupled: bool) -> dict[str, Any]:
        """Field names of the extension, which are those of the message `ModelStatistics` too."""
        nothing = Duration().as_json()
        executions = self.executions
        waited = executions.waited if executions is not None else Duration(self.success.count)
        infer = Duration(self.infer.count, max(0, self.infer.ns - waited.ns))
        found: dict[str, Any] = {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.success.count if executions is None else executions.rows,
            "execution_count": self.success.count if executions is None else executions.count,
            "inference_stats": {
                "success": self.success.as_json(),
                "fail": self.fail.as_json(),
                "queue": waited.as_json(),
                "compute_input": {"count": self.success.count, "ns": 0},
                "compute_infer": infer.as_json(),
                "compute_output": {"count": self.success.count, "ns": 0},
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [] if executions is None else executions.batches_as_json(),
            "memory_usage": [],
        }
        if is_decoupled:
            cancelled = self.cancel.as_json()
            found["response_stats"] = {
                str(index): {
                    "compute_infer": duration.as_json(),
                    "compute_output": {"count": duration.count, "ns": 0},
                    "success": duration.as_json(),
                    "fail": self.fail.as_json() if index == 0 else nothing,
                    "empty_response": nothing,
                    "cancel": cancelled if index == 0 else nothing,
                }
                for index, duration in sorted(self.responses.items())
            }
        return found


class Tally:
    """One request, in the statistics of every model that it counts for; its clock starts here.

    It succeeds with its last response; or it has `failed`, or was `left` by the one who asked.
    """

    def __init__(self, statistics: Sequence[Statistics]) -> None:
        self._statistics = statistics
        self._began = self._before = time.monotonic_ns()
        self._responses = 0
        self._has_ended = False

    def responded(self, is_last: bool) -> None:
        now = time.monotonic_ns()
        for one in self._statistics:
            one.responded(self._responses, now - self._before)
            if is_last:
                one.succeeded(now - self._began)
        self._before, self._responses = now, self._responses + 1
        self._has_ended = is_last

    def failed(self) -> None:
        self._end("fail")

    def left(self) -> None:
        """Nothing if it has ended."""
        if not self._has_ended:
            self._end("cancel")

    def _end(self, how: str) -> None:
        self._has_ended = True
        for one in self._statistics:
            getattr(one, how).add(time.monotonic_ns() - self._began)


_MOST_INDICES = 63
