"""What a model has done: counts and nanoseconds, as the statistics extension of the v2 protocol reports them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hanbit.server.errors import Kind, as_request_error
from hanbit.server.moments import Batch, Moments

# Triton's words for why a request failed: it found no room or no time, its client left, the model failed; all else
Reason = Literal["REJECTED", "CANCELED", "BACKEND", "OTHER"]
_REASONS: dict[Kind, Reason] = {"busy": "REJECTED", "late": "REJECTED", "internal": "BACKEND"}
_MOST_INDICES = 63
_MOST_BATCHES = 1024  # sizes that are told apart


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
class Compute:
    """The parts of a computation: the model's input, the model itself, its output."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, input: int, infer: int, output: int) -> None:
        self.input.add(input)
        self.infer.add(infer)
        self.output.add(output)

    def as_json(self) -> dict[str, dict[str, int]]:
        return {
            "compute_input": self.input.as_json(),
            "compute_infer": self.infer.as_json(),
            "compute_output": self.output.as_json(),
        }


@dataclass
class Responses:
    """At one place of their order: those with outputs, the empty last ones, and what came instead."""

    success: Duration = field(default_factory=Duration)
    empty: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)

    def as_json(self) -> dict[str, dict[str, int]]:
        return {
            "compute_infer": self.success.as_json(),
            "compute_output": {"count": self.success.count, "ns": 0},
            "success": self.success.as_json(),
            "fail": self.fail.as_json(),
            "empty_response": self.empty.as_json(),
            "cancel": self.cancel.as_json(),
        }


@dataclass
class Statistics:
    """Of one model version since it was loaded. Changed on the event loop only."""

    last_inference_ms: int = 0
    inferences: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)
    reasons: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(get_args(Reason), 0))
    queue: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)  # looking up
    cache_miss: Duration = field(default_factory=Duration)  # and keeping
    compute: Compute = field(default_factory=Compute)
    batches: dict[int, Compute] = field(default_factory=dict)
    responses: dict[int, Responses] = field(default_factory=dict)

    def succeeded(self, moments: Moments, end: int, rows: int) -> None:
        """`rows`: of the request, each an inference."""
        self.last_inference_ms = time.time_ns() // 1_000_000
        queue, input, infer, output = moments.parts(end)
        self.success.add(end - moments.start)
        if moments.is_cached:  # no inference, as Triton counts
            return
        self.queue.add(queue)
        self.compute.add(input, infer, output)
        self.inferences += rows
        batch = moments.batch or Batch(rows)
        if not batch.is_counted:
            batch.is_counted = True
            self.executions += 1
            if batch.rows in self.batches or len(self.batches) < _MOST_BATCHES:
                self.batches.setdefault(batch.rows, Compute()).add(input, infer, output)

    def responses_at(self, index: int) -> Responses:
        """Long answers are counted together."""
        return self.responses.setdefault(min(index, _MOST_INDICES), Responses())

    def as_json(self, name: str, version: str, is_decoupled: bool) -> dict[str, Any]:
        """Field names of the extension, which are those of the message `ModelStatistics` too."""
        told = sorted(self.responses.items()) if is_decoupled else ()
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.as_json(),
                "fail": self.fail.as_json(),
                "queue": self.queue.as_json(),
                **self.compute.as_json(),
                "cache_hit": self.cache_hit.as_json(),
                "cache_miss": self.cache_miss.as_json(),
            },
            "response_stats": {str(index): one.as_json() for index, one in told},
            "batch_stats": [{"batch_size": size, **one.as_json()} for size, one in sorted(self.batches.items())],
            "memory_usage": [],
        }


class Tally:
    """One request, in the statistics of every model that it counts for.

    It succeeds with its last response; or it has `failed`, or was `left` by the one who asked. `rows`: its batch.
    """

    def __init__(self, statistics: Sequence[Statistics], moments: Moments | None = None, rows: int = 1) -> None:
        self._statistics = statistics
        self._moments = moments if moments is not None else Moments()
        self._before = self._moments.start
        self._rows = rows
        self._responses = 0
        self._has_ended = False

    def responded(self, is_last: bool, is_empty: bool = False) -> None:
        """`is_empty`: it has no outputs and only tells the end."""
        now = time.monotonic_ns()
        for one in self._statistics:
            responses = one.responses_at(self._responses)
            (responses.empty if is_empty else responses.success).add(now - self._before)
            if is_last:
                one.succeeded(self._moments, now, self._rows)
        self._before, self._responses = now, self._responses + 1
        self._has_ended = is_last

    def failed(self, problem: Exception) -> None:
        self._end("fail", _REASONS.get(as_request_error(problem, is_logged=False).kind, "OTHER"))

    def left(self) -> None:
        """Nothing if it has ended."""
        if not self._has_ended:
            self._end("cancel", "CANCELED")

    def _end(self, how: str, reason: Reason) -> None:
        self._has_ended = True
        now = time.monotonic_ns()
        for one in self._statistics:
            one.reasons[reason] += 1
            getattr(one, how).add(now - self._moments.start)
            getattr(one.responses_at(self._responses), how).add(now - self._before)
