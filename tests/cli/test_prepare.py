"""The verb `prepare` as a user meets it: results, JSON, dry run, and doing nothing twice."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hanbit.cli.prepare import command
from hanbit.common.errors import DataError
from hanbit.data.megatron import open_token_file

APP = typer.Typer()
APP.command()(command)


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_text("대한민국은 민주공화국이다. " * 50)
    return str(tmp_path / "a.txt")


def test_json_names_what_is_on_the_disk(tmp_path: Path, source: str) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(APP, [source, "--output", str(out), "--vocabulary", "300", "--json"])
    facts = json.loads(result.stdout)
    assert facts["tokens"] == len(open_token_file(out / "tokens").tokens)
    assert facts["folder"] == str(out)
    assert facts["documents"] == 1


def test_the_closing_line_says_tokens_speed_and_files_and_the_second_time_nothing_to_do(
    tmp_path: Path, source: str
) -> None:
    arguments = [source, "--output", str(tmp_path / "out"), "--vocabulary", "300", "--workers", "1"]
    first = CliRunner().invoke(APP, arguments)
    assert first.exit_code == 0
    assert "tokens/s" in first.stdout
    assert "tokens.bin" in first.stdout
    assert "is whole already: nothing to do" in CliRunner().invoke(APP, arguments).stdout


def test_rows_without_text_are_counted_in_the_closing_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "대한민국은 민주공화국이다."}\n{"text": null}\n')
    arguments = [str(path), "--output", str(tmp_path / "out"), "--vocabulary", "300"]
    assert "of 1 documents (1 blank or null left out)" in CliRunner().invoke(APP, arguments).stdout


def test_a_tokenizer_smaller_than_asked_is_said(tmp_path: Path, source: str) -> None:
    result = CliRunner().invoke(APP, [source, "--output", str(tmp_path / "out"), "--vocabulary", "5000"])
    assert "of 5000 tokens; the text has no more pairs that repeat" in result.stdout


def test_a_dry_run_writes_nothing(tmp_path: Path, source: str) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(APP, [source, "--output", str(out), "--dry-run"])
    assert "train one of 8192 tokens" in result.stdout
    facts = json.loads(CliRunner().invoke(APP, [source, "--output", str(out), "--dry-run", "--json"]).stdout)
    assert facts["sources"] == [{"name": source, "bytes": Path(source).stat().st_size}]
    assert not out.exists()


def test_a_missing_source_ends_before_anything_is_written(tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, [str(tmp_path / "none.txt"), "--output", str(tmp_path / "out")])
    assert isinstance(result.exception, DataError)
    assert not (tmp_path / "out").exists()
