"""The conformance suite: its models, what it makes of servers that are none, and the real Triton where there is one."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanbit.bench.conformance.known import KNOWN, outdated, unknown
from hanbit.bench.conformance.report import is_good, table
from hanbit.bench.conformance.repository import write_repository
from hanbit.bench.conformance.run import GROUPS, Row, run, summary
from hanbit.bench.conformance.server import Server
from hanbit.bench.triton import Triton
from hanbit.cli.bench import app
from hanbit.common.errors import ConfigError, LaunchError
from hanbit.repository.layout import model_names, read_model

TRITON = os.environ.get("HANBIT_TRITON", "")
"""An environment that has nvidia-pytriton."""
IDS = [check.id for group in GROUPS for check in group.checks]


class _Wrong(BaseHTTPRequestHandler):
    """Says that it is a server with every extension, and is none."""

    def do_GET(self) -> None:
        extensions = sorted({check.extension for group in GROUPS for check in group.checks if check.extension})
        found = {"name": "wrong", "version": "1", "extensions": extensions[1:]}
        self._answer(json.dumps(found).encode() if self.path == "/v2" else b"{")

    def do_POST(self) -> None:
        self._answer(b"[]")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def wrong() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Wrong) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def row(id: str, outcome: str) -> Row:
    return Row(id, outcome, "it is so", "the protocol", "seen", 0.0)  # type: ignore[arg-type]


def test_the_repository_is_one_that_the_server_reads(tmp_path: Path) -> None:
    names = write_repository(tmp_path / "models")
    assert model_names(tmp_path / "models") == names
    models = {name: read_model(tmp_path / "models", name) for name in names}
    assert models["conform_double"].versions == (1, 3)
    for model in models.values():
        assert model.config.platform == "ensemble" or (model.folder / "1" / "model.py").is_file()
    with pytest.raises(ConfigError, match="is not empty"):
        write_repository(tmp_path / "models")


def test_ids_are_told_apart_and_those_listed_as_failing_exist() -> None:
    assert len(IDS) == len(set(IDS)) > 400
    for differences in KNOWN.values():
        listed = [id for one in differences for id in one.ids]
        assert len(listed) == len(set(listed))
        assert set(listed) <= set(IDS)


def test_nothing_passes_on_a_server_that_answers_at_random(wrong: str) -> None:
    rows = run(Server(wrong, "127.0.0.1:1"), ("errors", "datatypes", "classification", "sequence", "compression"))
    failed = [one for one in rows if one.outcome == "fail"]
    assert [one.id for one in rows if one.outcome == "pass"] == []
    assert {one.id.partition("-")[0] for one in rows if one.outcome == "not offered"} == {
        "datatypes.binary",
        "datatypes.nan",
    }
    assert all(one.seen for one in failed)


def test_where_there_is_no_server_that_is_said() -> None:
    with pytest.raises(LaunchError, match="is no server of KServe v2"):
        run(Server("127.0.0.1:1", "127.0.0.1:1"))


def test_only_what_is_not_listed_is_bad() -> None:
    rows = [
        row("survives.classification-of-text", "fail"),
        row("health.live", "pass"),
        row("infer.json", "not offered"),
    ]
    assert is_good("triton", rows)
    assert [one.id for one in unknown("hanbit", rows)] == ["survives.classification-of-text"]
    mended = [row("survives.classification-of-text", "pass")]
    assert outdated("triton", mended) == mended
    assert not is_good("triton", mended)


def test_the_table_has_counts_and_reasons() -> None:
    rows = [row("health.live", "pass"), row("health.ready", "fail"), row("infer.json", "not offered")]
    assert summary(rows)["health"] == {"pass": 1, "fail": 1}
    lines = table({"hanbit": rows}).splitlines()
    assert lines[1].split() == ["health", "1", "of", "2"]
    assert "  health.ready: seen" in lines
    assert "    NOT KNOWN" in lines
    assert "  infer.json: not offered: seen" in lines


def test_flags_that_do_not_go_together_are_usage_errors() -> None:
    for flags, words in (
        (["--http", "a:1"], "--http and --grpc"),
        (["--peer", "other"], "must be triton"),
        (["--peer", "triton"], "go together"),
        (["--peer", "triton", "--peer-path", "x", "--http", "a:1", "--grpc", "a:2"], "leave out --http"),
    ):
        found = CliRunner().invoke(app, ["conformance", *flags])
        assert isinstance(found.exception, ConfigError)
        assert words in str(found.exception)


def test_an_environment_without_triton_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tritonserver is missing.*nvidia-pytriton"):
        Triton(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not TRITON, reason="HANBIT_TRITON names no environment with nvidia-pytriton")
def test_the_real_triton_differs_only_as_listed(tmp_path: Path) -> None:
    write_repository(tmp_path / "models")
    with Triton(Path(TRITON)).serving(tmp_path / "models") as addresses:
        rows = run(Server(addresses.http, addresses.grpc))
    assert [one.id for one in unknown("triton", rows)] == []
    assert [one.id for one in outdated("triton", rows)] == []
    assert [one.id for one in rows if one.outcome == "not offered"] == ["sequence.text-id"]
