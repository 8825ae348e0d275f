"""Settings of a running server: what is traced and what is logged."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hanbit.bench.conformance.check import Failed, Group, NotOffered, equal, true
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import SIMPLE, ok, pair, refused, tensor

TRACE = Group("trace", "Triton: extension_trace", "trace")
LOGGING = Group("logging", "Triton: extension_logging", "logging")
_ALL, _ONE, _LOG = "/v2/trace/setting", f"/v2/models/{SIMPLE}/trace/setting", "/v2/logging"
_CLEAR = {"trace_level": None, "trace_rate": None, "trace_count": None, "log_frequency": None}
_MOMENTS = (
    "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END",
    "REQUEST_END",
)  # fmt: skip


def _cleared(look: Callable[[Server], Any]) -> Callable[[Server], Any]:
    """The settings are those of the start again, whatever was seen."""

    def whole(server: Server) -> Any:
        try:
            return look(server)
        finally:
            server.post(_ONE, _CLEAR)
            server.post(_ALL, _CLEAR)

    return whole


@TRACE.check("settings", "GET /v2/trace/setting has trace_level as a list and the others as texts")
def _settings(server: Server) -> str:
    found = ok(server.get(_ALL))
    true(isinstance(found["trace_level"], list), "trace_level is a list")
    for name in ("trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode"):
        true(isinstance(found[name], str), f"{name} is a text")
    return str(found)


@TRACE.check("update", "POST /v2/trace/setting changes what it names, and answers with all")
@_cleared
def _update(server: Server) -> None:
    found = ok(server.post(_ALL, {"trace_rate": "5", "trace_count": "2"}))
    equal((found["trace_rate"], found["trace_count"]), ("5", "2"), "rate and count")
    equal(ok(server.get(_ALL)), found, "the settings")


@TRACE.check("model", "a model's setting is its own, the others follow the server's")
@_cleared
def _model(server: Server) -> None:
    server.post(_ALL, {"trace_rate": "5", "log_frequency": "3"})
    server.post(_ONE, {"trace_rate": "7"})
    found = ok(server.get(_ONE))
    equal((found["trace_rate"], found["log_frequency"]), ("7", "3"), "rate and frequency of the model")
    equal(ok(server.get(_ALL))["trace_rate"], "5", "rate of the server")


@TRACE.check("clear", "null takes a setting back to what it would be without")
@_cleared
def _clear(server: Server) -> None:
    server.post(_ALL, {"trace_rate": "5"})
    server.post(_ONE, {"trace_rate": "7"})
    equal(ok(server.post(_ONE, {"trace_rate": None}))["trace_rate"], "5", "rate of the model")


def _refusing(path: str, body: Any, *statuses: int) -> Callable[[Server], str]:
    return lambda server: refused(server.post(path, body), *statuses)


for _name, _what, _body in (
    ("rate-text", "a rate that is no number", {"trace_rate": "x"}),
    ("rate-negative", "a negative rate", {"trace_rate": "-1"}),
    ("rate-number", "a rate that is no text", {"trace_rate": 5}),
    ("count-less", "a count below -1", {"trace_count": "-2"}),
    ("frequency-text", "a log_frequency that is no number", {"log_frequency": "x"}),
    ("level-unknown", "a level that there is not", {"trace_level": ["X"]}),
    ("level-text", "a level that is no list", {"trace_level": "TIMESTAMPS"}),
    ("level-off-and-on", "OFF among other levels", {"trace_level": ["OFF", "TIMESTAMPS"]}),
    ("not-json", "a body that is no JSON", b"{"),
):
    TRACE.add(_name, f"{_what} is refused", _cleared(_refusing(_ALL, _body)))
TRACE.add("no-model", "the setting of a model that does not exist is refused",
          lambda server: refused(server.get(f"/v2/models/{PREFIX}none/trace/setting")))  # fmt: skip
TRACE.add(
    "file", "the trace's file cannot be set by a client", _refusing(_ALL, {"trace_file": "/tmp/conform"}, 501, 400)
)


def _traces(server: Server, work: Callable[[], Any], frequency: int = 1, **settings: Any) -> list[list[dict[str, Any]]]:
    """Files of the trace that the work left. Raises NotOffered where they cannot be seen from here."""
    file = ok(server.get(_ALL))["trace_file"]
    if not file or not Path(file).parent.is_dir():
        raise NotOffered(
            f"trace_file is {file!r}: start the server with --trace-config triton,file=PATH, on this machine"
        )
    old = set(Path(file).parent.glob(f"{Path(file).name}.*"))
    levels = settings.pop("levels", ["TIMESTAMPS"])
    given = {"trace_level": levels, "trace_rate": "1", "log_frequency": str(frequency), **settings}
    equal(server.post(_ALL, given).status, 200, "status of the setting")
    work()
    server.post(_ALL, {"trace_level": ["OFF"]})
    deadline = time.monotonic() + 10
    while not (new := set(Path(file).parent.glob(f"{Path(file).name}.*")) - old) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)  # for the last of several
    new = set(Path(file).parent.glob(f"{Path(file).name}.*")) - old
    if not new:
        raise Failed(f"no file {file}.N was written")
    try:
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(new)]
    finally:
        for path in new:
            path.unlink()


def _asked(server: Server, id: str) -> None:
    equal(server.infer(SIMPLE, pair(), id=id).status, 200, "status of infer")


@TRACE.check("timestamps", "a traced request has model, version, id and the moments of its life, in order")
@_cleared
def _timestamps(server: Server) -> str:
    entries = [one for file in _traces(server, lambda: _asked(server, "traced")) for one in file]
    head = next(one for one in entries if "model_name" in one)
    equal((head["model_name"], head["model_version"], head.get("request_id")), (SIMPLE, 1, "traced"), "the head")
    times = {stamp["name"]: stamp["ns"] for one in entries for stamp in one.get("timestamps", ())}
    equal([name for name in _MOMENTS if name not in times], [], "moments that are missing")
    in_order = [times[name] for name in _MOMENTS]
    true(in_order == sorted(in_order), f"the moments are in order: {times}")
    return f"{len(times)} moments"


@TRACE.check("http-moments", "over HTTP the moments of receiving and sending are there too")
@_cleared
def _http(server: Server) -> None:
    entries = [one for file in _traces(server, lambda: _asked(server, "http")) for one in file]
    names = {stamp["name"] for one in entries for stamp in one.get("timestamps", ())}
    wanted = {"HTTP_RECV_START", "HTTP_RECV_END", "HTTP_SEND_START", "HTTP_SEND_END"}
    equal(wanted - names, set(), "what is missing")


@TRACE.check("count", "after trace_count requests no more are traced, and the setting counts down")
@_cleared
def _count(server: Server) -> None:
    def work() -> None:
        for place in range(4):
            _asked(server, f"count {place}")
        equal(ok(server.get(_ALL))["trace_count"], "0", "trace_count")

    files = _traces(server, work, trace_count="2")
    ids = sorted({one["request_id"] for file in files for one in file if "request_id" in one})
    equal(ids, ["count 0", "count 1"], "ids")


@TRACE.check("frequency", "log_frequency 2 writes a file for every two traces")
@_cleared
def _frequency(server: Server) -> None:
    def work() -> None:
        for place in range(4):
            _asked(server, f"frequency {place}")
            time.sleep(0.05)

    files = _traces(server, work, frequency=2)
    equal([len({one["id"] for one in file}) for file in files], [2, 2], "traces of each file")


@TRACE.check("rate", "trace_rate 2 traces every second request")
@_cleared
def _rate(server: Server) -> None:
    def work() -> None:
        for place in range(4):
            _asked(server, f"rate {place}")

    files = _traces(server, work, trace_rate="2")
    equal(len({one["id"] for file in files for one in file}), 2, "traces of 4 requests")


@TRACE.check("ensemble", "the steps of an ensemble have traces of their own, with its id as parent_id")
@_cleared
def _ensemble(server: Server) -> None:
    def work() -> None:
        server.infer(f"{PREFIX}pipeline", [tensor("IN", "INT32", [1], [1, 1])])

    heads = [one for file in _traces(server, work) for one in file if "model_name" in one]
    parent = next(one["id"] for one in heads if one["model_name"] == f"{PREFIX}pipeline")
    steps = [one["parent_id"] for one in heads if one["model_name"] == f"{PREFIX}double"]
    equal(steps, [parent, parent], "parent_id of the steps")


@TRACE.check("tensors", "the level TENSORS adds what went in and what came out")
@_cleared
def _tensors(server: Server) -> None:
    files = _traces(server, lambda: _asked(server, "tensors"), levels=["TIMESTAMPS", "TENSORS"])
    activities = [one for file in files for one in file if "activity" in one]
    first = next(one["tensor"] for one in activities if one["tensor"]["name"] == "INPUT1")
    wanted = {"name": "INPUT1", "data": ",".join(["1"] * 16), "shape": "1,16", "dtype": "INT32"}
    equal(first, wanted, "INPUT1")
    true(any(one["activity"] == "TENSOR_BACKEND_OUTPUT" for one in activities), "there is an output")


@LOGGING.check("settings", "GET /v2/logging has the file, three switches, the level and the format")
def _logging(server: Server) -> str:
    found = ok(server.get(_LOG))
    for name, kind in (
        ("log_file", str), ("log_info", bool), ("log_warning", bool), ("log_error", bool),
        ("log_verbose_level", int), ("log_format", str),
    ):  # fmt: skip
        true(isinstance(found[name], kind), f"{name} is of {kind.__name__}")
    return str(found)


def _kept(look: Callable[[Server], Any]) -> Callable[[Server], Any]:
    def whole(server: Server) -> Any:
        before = ok(server.get(_LOG))
        try:
            return look(server)
        finally:
            server.post(_LOG, {name: value for name, value in before.items() if name != "log_file"})

    return whole


@LOGGING.check("update", "POST /v2/logging changes what it names, and answers with all")
@_kept
def _log_update(server: Server) -> None:
    found = ok(server.post(_LOG, {"log_verbose_level": 1, "log_info": False, "log_format": "ISO8601"}))
    seen = found["log_verbose_level"], found["log_info"], found["log_format"]
    equal(seen, (1, False, "ISO8601"), "level, info and format")
    equal(ok(server.get(_LOG)), found, "the settings")


for _name, _what, _body in (
    ("info-text", "a switch that is no truth value", {"log_info": "x"}),
    ("level-negative", "a negative level", {"log_verbose_level": -1}),
    ("level-text", "a level that is no number", {"log_verbose_level": "1"}),
    ("format-unknown", "a format that there is not", {"log_format": "bad"}),
    ("not-json", "a body that is no JSON", b"{"),
):
    LOGGING.add(_name, f"{_what} is refused", _kept(_refusing(_LOG, _body)))
LOGGING.add("file", "the log's file cannot be set by a client", _refusing(_LOG, {"log_file": "/tmp/conform"}, 501, 400))
