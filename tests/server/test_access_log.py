"""The access log has a line for each request of every protocol, and nothing of what was said or of the keys."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client
from openai import OpenAI
from tritonclient.utils import InferenceServerException

from hanbit.common.errors import ConfigError
from hanbit.server.access import Keys
from hanbit.server.access_log import AccessLog
from tests.server.asking import PROMPT, Http, inputs
from tests.server.served import Served, serving
from tests.server.test_roles import KEYS, write_keys


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def served(repository: Path, log: Path) -> Iterator[Served]:
    with serving(repository, access_log=str(log), api_keys=write_keys(log.parent / "keys")) as found:
        yield found


def lines(log: Path, count: int) -> list[dict[str, Any]]:
    """So many: a client may have its answer before the line is written."""
    deadline = time.monotonic() + 10
    while log.read_text().count("\n") < count:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_each_request_is_a_line(served: Served, log: Path) -> None:
    http, bearer = Http(served.http), f"Bearer {KEYS['infer']}"
    http.ask("/v2/health/live", method="GET")
    http.ask("/v2?secret=1", method="GET", authorization="Bearer nobody")
    http.ask("/v2/repository/index", method="POST", authorization=bearer)
    generated = http.ask(
        "/v2/models/small/generate_stream", {"text_input": PROMPT, "max_tokens": 3}, authorization=bearer
    )
    with OpenAI(base_url=f"{served.url}/v1", api_key=KEYS["infer"]) as client:
        client.completions.create(model="small", prompt=PROMPT, max_tokens=2)
    triton = grpc_client.InferenceServerClient(served.grpc)
    triton.infer("small", inputs(grpc_client, max_tokens=2), headers={"authorization": bearer})
    for headers in ({"authorization": bearer}, {}):
        with suppress(InferenceServerException):
            triton.load_model("small", headers=headers)
    found = lines(log, 8)
    assert [(one["protocol"], one["path"], one["status"], one["key"]) for one in found] == [
        ("http", "/v2/health/live", "200", ""),
        ("http", "/v2", "401", ""),
        ("http", "/v2/repository/index", "403", "infer-key"),
        ("http", "/v2/models/small/generate_stream", "200", "infer-key"),
        ("http", "/v1/completions", "200", "infer-key"),
        ("grpc", "/inference.GRPCInferenceService/ModelInfer", "OK", "infer-key"),
        ("grpc", "/inference.GRPCInferenceService/RepositoryModelLoad", "PERMISSION_DENIED", "infer-key"),
        ("grpc", "/inference.GRPCInferenceService/RepositoryModelLoad", "UNAUTHENTICATED", ""),
    ]
    assert found[3]["bytes"] == len(generated.content)
    assert all(0 < one["seconds"] < 60 for one in found)
    text = log.read_text()
    assert not any(word in text for word in (*KEYS.values(), "secret", "nobody", "quick"))


def test_a_stream_of_grpc_is_a_line(served: Served, log: Path) -> None:
    triton = grpc_client.InferenceServerClient(served.grpc)
    arrived: list[Any] = []
    triton.start_stream(
        lambda result, error: arrived.append(error or result), headers={"authorization": f"Bearer {KEYS['infer']}"}
    )
    triton.async_stream_infer("small", inputs(grpc_client, max_tokens=2, stream=True))
    triton.stop_stream()
    assert arrived
    assert [(one["path"].rpartition("/")[2], one["status"]) for one in lines(log, 1)] == [("ModelStreamInfer", "OK")]


def test_a_client_cannot_write_lines(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), Keys())
    log.write(0, "http", "1.2.3.4", "GET", '/a\n{"status": "200"}' + "x" * 10_000, "404", 0, "Bearer \u2028")
    log.close()
    (line,) = lines(tmp_path / "log", 1)
    assert line["path"].startswith('/a\n{"status"')
    assert len(line["path"]) == 512


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--access-log .* cannot be written"):
        AccessLog(str(tmp_path / "no" / "log"), Keys())
