"""Which requests are traced, and what is in the files: by hand-made requests and hand-counted turns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanbit.common.errors import ConfigError
from hanbit.server.errors import RequestError
from hanbit.server.extensions.trace import Tracing
from hanbit.server.extensions.trace_settings import TraceOptions, parse_trace_config
from hanbit.server.tensors import Tensor

ON = ("TIMESTAMPS",)


def tracing(tmp_path: Path, **options: Any) -> Tracing:
    return Tracing(TraceOptions(**{"levels": ON, "rate": 1, "file": tmp_path / "trace.json", **options}))


def take(found: Tracing, count: int, model: str = "m") -> list[bool]:
    """Whose turn it was, of so many requests."""
    turns = []
    for number in range(count):
        trace = found.start(model)
        turns.append(trace is not None)
        if trace is not None:
            trace.describe(model, "1", f"r{number}")
            trace.mark("REQUEST_START", number)
            trace.end()
    return turns


def ids(path: Path) -> list[str]:
    return [one["request_id"] for one in json.loads(path.read_text()) if "request_id" in one]


def test_every_nth_request_is_traced_and_no_more_than_the_count(tmp_path: Path) -> None:
    found = tracing(tmp_path, rate=3, count=2)
    assert take(found, 12) == [False, False, True, False, False, True, *[False] * 6]
    assert found.as_json()["trace_count"] == "0"
    found.close()
    assert ids(tmp_path / "trace.json") == ["r2", "r5"]


@pytest.mark.parametrize("options", [{"levels": ("OFF",)}, {"rate": 0}, {"count": 0}, {"file": None}])
def test_what_is_off_is_not_traced(tmp_path: Path, options: dict[str, Any]) -> None:
    assert not any(take(tracing(tmp_path, **options), 5))


def test_files_have_so_many_traces_and_the_rest_comes_at_the_end(tmp_path: Path) -> None:
    found = tracing(tmp_path, log_frequency=2)
    take(found, 5)
    found.close()
    assert [ids(tmp_path / f"trace.json.{number}") for number in range(3)] == [["r0", "r1"], ["r2", "r3"], ["r4"]]


def test_one_file_is_a_whole_list_however_many_traces_it_has(tmp_path: Path) -> None:
    found = tracing(tmp_path)
    take(found, 2500)
    found.close()
    assert ids(tmp_path / "trace.json") == [f"r{number}" for number in range(2500)]


def test_a_models_own_setting_counts_by_itself(tmp_path: Path) -> None:
    found = tracing(tmp_path)
    found.update("mine", {"trace_rate": "2"})
    assert take(found, 4, "mine") == [False, True, False, True]
    assert take(found, 2, "other") == [True, True]
    assert found.update("mine", {"trace_rate": None})["trace_rate"] == "1"
    assert take(found, 2, "mine") == [True, True]
    found.close()


def test_a_models_setting_follows_the_servers_in_all_else(tmp_path: Path) -> None:
    found = tracing(tmp_path)
    found.update("mine", {"trace_rate": "2"})
    found.update("", {"trace_level": ["OFF"]})
    assert found.as_json("mine")["trace_level"] == ["OFF"]
    assert not any(take(found, 4, "mine"))
    found.close()


def test_steps_lie_with_their_ensemble_and_name_it(tmp_path: Path) -> None:
    found = tracing(tmp_path, log_frequency=1)
    trace = found.start("whole")
    assert trace is not None
    step = trace.child()
    step.describe("step", "3", "r")
    trace.describe("whole", "1", "r")
    trace.end()
    entries = json.loads((tmp_path / "trace.json.0").read_text())
    assert entries == [
        {"id": 2, "model_name": "step", "model_version": 3, "request_id": "r", "parent_id": 1},
        {"id": 1, "model_name": "whole", "model_version": 1, "request_id": "r"},
    ]


def test_tensors_are_told_at_their_level_only(tmp_path: Path) -> None:
    one = Tensor("IN", "BYTES", (2,), np.array([b"a", b"\xff"], np.object_))
    for levels, wanted in ((ON, 0), ((*ON, "TENSORS"), 1)):
        found = tracing(tmp_path, levels=levels, log_frequency=1)
        trace = found.start("m")
        assert trace is not None
        trace.inputs([one])
        trace.end()
        tensors = [entry for entry in json.loads((tmp_path / "trace.json.0").read_text()) if "activity" in entry]
        assert len(tensors) == wanted
    assert tensors[0]["tensor"] == {"name": "IN", "data": "a,\ufffd", "shape": "2", "dtype": "BYTES"}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({"trace_rate": "x"}, "invalid"), ({"trace_rate": 5}, "invalid"), ({"trace_count": "-2"}, "invalid"),
     ({"trace_rate": "9" * 400}, "invalid"), ({"trace_level": []}, "invalid"), ({"trace_level": ["X"]}, "invalid"),
     ({"trace_level": ["OFF", "TENSORS"]}, "invalid"), ({"mine": "1"}, "invalid"),
     ({"trace_file": "/etc/passwd"}, "unsupported"), ({"trace_mode": "opentelemetry"}, "unsupported")],
)  # fmt: skip
def test_a_wrong_setting_changes_nothing(tmp_path: Path, settings: dict[str, Any], kind: str) -> None:
    found = tracing(tmp_path)
    before = found.as_json()
    with pytest.raises(RequestError) as caught:
        found.update("", {"log_frequency": "7", **settings})
    assert caught.value.kind == kind
    assert found.as_json() == before


def test_a_file_that_cannot_be_written_disturbs_nobody(tmp_path: Path) -> None:
    found = tracing(tmp_path / "gone", log_frequency=1)
    assert take(found, 2) == [True, True]
    found.close()


def test_the_command_line_is_tritons(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    given = [f"triton,file={file}", "triton,log-frequency=5", "rate=2", "count=9", "level=TIMESTAMPS", "level=TENSORS"]
    assert parse_trace_config(given) == TraceOptions(("TIMESTAMPS", "TENSORS"), 2, 9, 5, file)
    assert parse_trace_config([]) == TraceOptions()
    for wrong in ("rate", "rate=x", "count=-2", "other=1", "opentelemetry,url=x", "mode=opentelemetry", "level=X",
                  "triton,file=/no/such/folder/t"):  # fmt: skip
        with pytest.raises(ConfigError, match="--trace-config"):
            parse_trace_config([wrong])
