"""The traces themselves: chosen by their settings, collected, and written to files in Triton's form.

A file is a JSON list of entries, several for each trace: which request it is, then its moments one by one, then, with
the level TENSORS, what went in and came out. The steps of an ensemble are traces of their own, with its id as
`parent_id`, and lie with it in one file.
"""

import itertools
import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hanbit.server.extensions.trace_settings import OFF, TraceOptions, TraceSettings
from hanbit.server.moments import Moments
from hanbit.server.tensors import Tensor

log = logging.getLogger(__name__)

_MOST_KEPT = 1000  # traces that wait for being written
_MOST_ELEMENTS = 100_000  # of a tensor in a trace
_MOST_RESPONSES = 64  # whose tensors are told


class Tracing:
    """Used on the event loop. `start` costs a look at a number while nothing is traced."""

    def __init__(self, options: TraceOptions) -> None:
        self._settings = TraceSettings(options)
        self._files = _Files()
        self._ids = itertools.count(1)
        self._samplers = {"": _Sampler(options, self._files)}

    def start(self, model: str) -> "Trace | None":
        """Of a request, if it is its turn."""
        sampler = self._samplers.get(model) or self._samplers[""]
        return Trace(sampler, self._ids) if sampler.takes_next() else None

    def as_json(self, model: str = "") -> dict[str, Any]:
        sampler = self._samplers.get(model) or self._samplers[""]
        return sampler.as_json()

    def update(self, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All of them afterwards. A setting that changes begins to count anew. Raises RequestError."""
        self._settings.update(model, settings)
        for name in {"", model, *self._samplers}:
            before, options = self._samplers.get(name), self._settings.of(name)
            if name and name not in self._settings.own:
                if before is not None:
                    self._samplers.pop(name).flush()
            elif before is None or before.options != options or (name == model and "trace_count" in settings):
                if before is not None:
                    before.flush()
                self._samplers[name] = _Sampler(options, self._files, before, "trace_count" in settings)
        return self.as_json(model)

    def close(self) -> None:
        for sampler in self._samplers.values():
            sampler.flush()
        self._files.close()


class Trace:
    """One request in one model: told by `describe`, `mark`, `inputs`, `outputs` and `computed`; `end` gives it away."""

    def __init__(self, sampler: "_Sampler", ids: Iterable[int], parent: "Trace | None" = None) -> None:
        self._sampler, self._ids = sampler, iter(ids)
        self._parent = parent
        self._id = next(self._ids)
        self._head: dict[str, Any] = {"id": self._id}
        self._marks: list[tuple[str, int]] = []
        self._tensors: list[tuple[str, Tensor]] = []
        self._children: list[Trace] = []
        self._num_responses = 0

    def child(self) -> "Trace":
        """Of a step of this request."""
        made = Trace(self._sampler, self._ids, self)
        self._children.append(made)
        return made

    def mark(self, name: str, nanoseconds: int | None = None) -> None:
        self._marks.append((name, time.monotonic_ns() if nanoseconds is None else nanoseconds))

    def describe(self, model: str, version: str, request_id: str) -> None:
        self._head |= {"model_name": model, "model_version": int(version)}
        if request_id:
            self._head["request_id"] = request_id
        if self._parent is not None:
            self._head["parent_id"] = self._parent._id

    def inputs(self, tensors: Iterable[Tensor]) -> None:
        if self._sampler.takes_tensors:
            self._tensors += [("TENSOR_QUEUE_INPUT", one) for one in tensors]

    def outputs(self, tensors: Iterable[Tensor]) -> None:
        self._num_responses += 1
        if self._sampler.takes_tensors and self._num_responses <= _MOST_RESPONSES:
            self._tensors += [("TENSOR_BACKEND_OUTPUT", one) for one in tensors]

    def computed(self, moments: Moments, end: int) -> None:
        """The moments that every request has."""
        queue, input, infer, _ = moments.parts(end)
        begin = moments.start + queue
        for name, moment in (
            ("REQUEST_START", moments.start),
            ("QUEUE_START", moments.start),
            ("COMPUTE_START", begin),
            ("COMPUTE_INPUT_END", begin + input),
            ("COMPUTE_OUTPUT_START", begin + input + infer),
            ("COMPUTE_END", end),
            ("REQUEST_END", end),
        ):
            self.mark(name, moment)

    def end(self) -> None:
        """Of the whole request: its steps have ended with it."""
        if self._parent is None:
            self._sampler.take([entry for one in (*self._children, self) for entry in one._entries()])

    def _entries(self) -> list[dict[str, Any]]:
        deeper = [entry for one in self._children if self._parent is not None for entry in one._entries()]
        moments = [{"id": self._id, "timestamps": [{"name": name, "ns": ns}]} for name, ns in self._marks]
        tensors = [{"id": self._id, "activity": name, "tensor": _as_json(one)} for name, one in self._tensors]
        return [*deeper, self._head, *moments, *tensors]


class _Sampler:
    """Whose turn it is, by one set of settings, and the traces that it waits to write."""

    def __init__(
        self, options: TraceOptions, files: "_Files", before: "_Sampler | None" = None, counts_anew: bool = True
    ) -> None:
        self.options = options
        self._files = files
        self._is_off = OFF in options.levels or options.rate == 0 or options.file is None
        self.takes_tensors = "TENSORS" in options.levels
        keeps = before is not None and not counts_anew and before.options.count == options.count
        self._left: int = before._left if before is not None and keeps else options.count
        self._seen = 0
        self._kept: list[list[dict[str, Any]]] = []

    def takes_next(self) -> bool:
        if self._is_off or self._left == 0:
            return False
        self._seen += 1
        if self._seen % self.options.rate:
            return False
        if self._left > 0:
            self._left -= 1
        return True

    def as_json(self) -> dict[str, Any]:
        """trace_count is what is left of it."""
        return {**self.options.as_json(), "trace_count": str(self._left)}

    def take(self, entries: list[dict[str, Any]]) -> None:
        self._kept.append(entries)
        if len(self._kept) >= (self.options.log_frequency or _MOST_KEPT):
            self.flush()

    def flush(self) -> None:
        if self._kept and self.options.file is not None:
            entries = [entry for trace in self._kept for entry in trace]
            self._files.write(self.options.file, bool(self.options.log_frequency), entries)
        self._kept = []


class _Files:
    """`<file>.0`, `<file>.1`, ...; or one file that grows until the end, a list that is closed then."""

    def __init__(self) -> None:
        self._next = 0
        self._whole: Any = None

    def write(self, file: Path, is_numbered: bool, entries: list[dict[str, Any]]) -> None:
        """A trace that cannot be written is a line of the log, and no request's fault."""
        text = ",".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in entries)
        try:
            if is_numbered:
                path = file.with_name(f"{file.name}.{self._next}")
                path.write_text(f"[{text}]", encoding="utf-8")
                self._next += 1
            elif self._whole is None:
                self._whole = open(file, "w", encoding="utf-8")  # noqa: SIM115
                self._whole.write(f"[{text}")
            else:
                self._whole.write(f",{text}")
        except OSError as problem:
            log.warning("a trace could not be written to %s: %s", file, problem.strerror)

    def close(self) -> None:
        if self._whole is not None:
            self._whole.write("]")
            self._whole.close()
            self._whole = None


def _as_json(tensor: Tensor) -> dict[str, str]:
    values = tensor.data.ravel()[:_MOST_ELEMENTS].tolist()
    if tensor.datatype == "BYTES":
        values = [one.decode(errors="replace") for one in values]
    return {
        "name": tensor.name,
        "data": ",".join(map(str, values)),
        "shape": ",".join(map(str, tensor.shape)),
        "dtype": tensor.datatype,
    }
