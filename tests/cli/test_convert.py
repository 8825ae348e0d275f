"""The verb `convert` as a user meets it: lines, JSON, progress, doing nothing twice, and what is refused."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from hanbit.cli.convert import command
from hanbit.common.errors import ConfigError, FormatError, ModelError
from hanbit.convert.convert import convert
from tests.convert.gguf_models import write_gguf

APP = typer.Typer()
APP.command()(command)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("source") / "small.gguf")


def test_lines_say_what_it_was_what_it_became_how_long_and_how_good(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out")
    assert result.exit_code == 0
    first, second, third = result.stdout.splitlines()
    assert first == f"{source}: llama, 2 layers, 82.2K parameters, 14 Q4_1 + 5 F32 + 1 Q8_0"
    assert second.startswith(f"{tmp_path / 'out'}: ")
    assert second.endswith("s without the proof")
    assert third.startswith("proven in ")
    assert "20 tensors equal, logits over 48 tokens differ by at most" in third
    assert "reading tensors" in result.stderr
    again = run(source, tmp_path / "out").stdout.splitlines()
    assert again[1].startswith(f"{tmp_path / 'out'} is whole already: nothing to write (")
    assert again[2].startswith("proven, earlier: ")


def test_without_a_proof_that_is_said(source: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "out", "--no-proof").stdout.splitlines()[-1] == "not proven"


def test_json_holds_what_python_gets_and_nothing_else_is_printed(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out", "--json", "--dtype", "bfloat16", "--keep-blocks")
    facts = json.loads(result.stdout)
    assert result.stderr == ""
    assert facts["folder"] == str(tmp_path / "out")
    assert facts["dtype"] == "bfloat16"
    assert not facts["was_there"]
    same = convert(source, tmp_path / "out", dtype="bfloat16", keep_blocks=True)
    assert same.was_there
    assert same.proof == facts["proof"]


def test_what_is_wrong_is_refused_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(source.read_bytes()[:5000])
    for arguments, error, message in (
        ((source, tmp_path / "out", "--to", "onnx"), ConfigError, "--to onnx is not built"),
        ((source, tmp_path / "out", "--dtype", "int8"), ConfigError, "--dtype int8 must be"),
        ((tmp_path / "none.gguf", tmp_path / "out"), ModelError, "none.gguf does not exist"),
        ((tmp_path / "cut.gguf", tmp_path / "out"), FormatError, "It is truncated or lies; copy it again"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, error)
        assert message in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]
