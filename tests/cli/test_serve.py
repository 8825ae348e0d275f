"""`hanbit serve` and `hanbit deploy` as processes: ready, draining, ports, mistakes; nothing is left behind."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tritonclient.grpc as client

from hanbit.cli.main import run
from tests.convert.gguf_models import write_gguf
from tests.engine.folders import write_hub_cache
from tests.server.asking import Http, inputs, text_of
from tests.server.served import write_long_folder

READY = re.compile(r"ready: (.*) at http://(\S+) \(KServe v2, OpenAI under /v1\) and gRPC (\S+)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_folder(tmp_path_factory.mktemp("run") / "model")


class Process:
    """A server of its own process; `http`, `grpc`: host:port."""

    def __init__(self, arguments: list[str], temporary: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hanbit", "serve", *arguments, "--http-port", "0", "--grpc-port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = READY.fullmatch(line.strip())
        assert match, f"{line}{self.process.stderr.read() if self.process.stderr else ''}"
        self.names, self.http, self.grpc = match.groups()

    def ended(self) -> tuple[int, str]:
        """Exit code and what it said to standard error."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def process(tmp_path: Path, *arguments: str) -> Iterator[Process]:
    found = Process(list(arguments), tmp_path)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()


def begin_answer(address: str, max_tokens: int) -> http.client.HTTPResponse:
    """A streamed answer of which one piece is read."""
    connection = http.client.HTTPConnection(address, timeout=60)
    body = {"text_input": "The", "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    connection.request("POST", "/v2/models/m/generate_stream", json.dumps(body))
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    return response


def test_told_to_end_it_finishes_what_it_answers_and_takes_nothing_new(folder: Path, tmp_path: Path) -> None:
    with process(tmp_path, str(folder), "--served-model-name", "m") as server:
        assert server.names == "m"
        grpc = client.InferenceServerClient(server.grpc)
        assert text_of(grpc.infer("m", inputs(client, max_tokens=2)))
        response = begin_answer(server.http, 1000)
        server.process.send_signal(signal.SIGTERM)
        web = Http(server.http)
        while web.ask("/v2/health/ready", method="GET").status == 200:
            time.sleep(0.005)
        for path in ("/v2/models/m/generate", "/v1/completions"):
            refused = web.ask(path, {"text_input": "The", "model": "m", "prompt": "The"})
            assert refused.status == 503
            assert "shutting down" in str(refused.json()["error"])
        with pytest.raises(client.InferenceServerException, match=r"UNAVAILABLE.*shutting down"):
            grpc.infer("m", inputs(client, max_tokens=2))
        events = [line for line in response.read().split(b"\n") if line]
        assert len(events) == 999
        assert json.loads(events[-1].removeprefix(b"data: "))["finish_reason"] == "length"
        code, errors = server.ended()
        assert code == 0
        assert "ending: 1 requests are still answered" in errors
        assert "Traceback" not in errors
        assert list(tmp_path.iterdir()) == []  # the temporary repository is gone


def test_a_gguf_file_is_served_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANBIT_HOME", str(tmp_path / "home"))
    source = write_gguf(tmp_path / "small.gguf")
    with process(tmp_path, str(source), "--model", f"other={source}") as server:
        assert sorted(server.names.split(", ")) == ["other", "small"]
        body = {"text_input": "The", "temperature": 0, "max_tokens": 5, "ignore_eos": True}
        answers = [Http(server.http).ask(f"/v2/models/{name}/generate", body) for name in ("small", "other")]
        assert answers[0].status == 200
        assert answers[0].json()["text_output"] == answers[1].json()["text_output"]


def test_patience_ends_and_a_repository_serves_two_servers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models"
    assert run(["deploy", str(folder), "m", "--model-repository", str(repository)]) == 0
    assert f"hanbit serve --model-repository {repository}" in capsys.readouterr().out
    arguments = ["--model-repository", str(repository), "--exit-timeout-secs", "0.2"]
    with process(tmp_path, *arguments) as first, process(tmp_path, *arguments) as second:
        body = {"text_input": "The", "temperature": 0, "max_tokens": 20}
        answers = [Http(one.http).ask("/v2/models/m/generate", body) for one in (first, second)]
        assert answers[0].content == answers[1].content
        response = begin_answer(first.http, 4000)
        first.process.send_signal(signal.SIGINT)
        assert b"the engine has been closed" in response.read().split(b"\n")[-3]
        code, errors = first.ended()
        assert code == 0
        assert "ending: 1 requests were cut off" in errors
        assert "Traceback" not in errors


def test_a_second_server_on_the_same_folder_and_ports_is_one_line_and_the_first_serves_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with process(tmp_path, str(folder), "--served-model-name", "m") as first:
        http, grpc = (address.rpartition(":")[2] for address in (first.http, first.grpc))
        for ports, flag in (((http, "0"), "--http-port"), (("0", grpc), "--grpc-port"), ((http, grpc), "--grpc-port")):
            taken = http if flag == "--http-port" else grpc
            assert run(["serve", str(folder), "--http-port", ports[0], "--grpc-port", ports[1]]) == 2
            error = capsys.readouterr().err
            assert f"port {taken} is in use by process {first.process.pid} (" in error
            assert f"choose another with {flag}" in error
            assert error.count("\n") == 1
        assert Http(first.http).ask("/v2/models/m/generate", {"text_input": "The", "max_tokens": 2}).status == 200


def test_a_hub_name_is_served_from_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hub_cache(tmp_path / "home/hub", "some/tiny", folder)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with process(tmp_path, "some/tiny") as server:
        assert server.names == "tiny"
        assert Http(server.http).ask("/v2/models/tiny/generate", {"text_input": "The", "max_tokens": 2}).status == 200


def test_a_model_that_cannot_be_loaded_ends_the_server_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert run(["serve", str(tmp_path), "--http-port", "0", "--grpc-port", "0"]) == 1
    errors = capsys.readouterr().err
    assert "models cannot be loaded" in errors
    assert "config.json must name one architecture" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "nothing to serve"),
        (["nowhere"], 1, "nowhere is no model folder"),
        (["--model-repository", "nowhere"], 1, "nowhere is no model repository"),
        (["--model", "nowhere"], 2, "--model 'nowhere' must be NAME=FOLDER"),
        (["--model", "a=x", "--model", "a=y"], 2, "--model names 'a' twice"),
        (["--model", "a=x", "--served-model-name", "b"], 2, "--served-model-name names FOLDER"),
        (["a", "--model", "a=b"], 2, "two models would be called 'a'"),
        (["--model", "a=x", "--model", "b=y", "--adapter", "c=z"], 2, "an adapter belongs to one model"),
        (["x", "--http-port", "70000"], 2, "--http-port 70000 must be"),
        (["x", "--http-port", "8000", "--grpc-port", "8000"], 2, "are both 8000"),
        (["x", "--host", "0.0.0.0"], 2, "--api-key KEY, or say --insecure"),
        (["x", "--model-control-mode", "sometimes"], 2, "must be none, explicit or poll"),
        (["x", "--allow-client-shm", "maybe"], 2, "--allow-client-shm 'maybe' must be true or false"),
        (["x", "--trace-config", "rate=x"], 2, "--trace-config: rate='x' must be a whole number"),
        (["x", "--log-format", "bad"], 2, "--log-format 'bad' must be default or ISO8601"),
        (["x", "--http-restricted-api", "wealth:a=b"], 2, "--http-restricted-api: there is no part 'wealth'"),
        (["x", "--http-max-input-size", "0"], 2, "--http-max-input-size 0 must be bytes"),
        (["x", "--load-model", "a"], 2, "--model-control-mode explicit"),
        (["x", "--exit-timeout-secs", "-1"], 2, "must be 0 or more"),
    ],
)
def test_mistakes_are_one_line_and_start_nothing(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", *arguments]) == code
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
