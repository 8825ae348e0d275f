"""`hanbit config`: what it prints, and that what it prints runs the same."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hanbit.cli.config import app
from hanbit.common.errors import ConfigError
from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.config.schema import recipe_schema
from hanbit.tokenizers.train import save, train


def run(*arguments: str) -> Result:
    return CliRunner(env={"WORLD_SIZE": None}).invoke(app, list(arguments))


def rows(*arguments: str) -> dict[str, dict[str, object]]:
    return {row["key"]: row for row in json.loads(run("show", *arguments, "--json").stdout)}


def test_schema_is_printed_as_json() -> None:
    assert json.loads(run("schema").stdout) == recipe_schema()


def test_show_prints_a_file_that_runs_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(run("show", "llama/60m", "training.steps=7", "--processes", "2").stdout, encoding="utf-8")
    asked = load_recipe("llama/60m", ["training.steps=7"], {}).recipe
    assert load_recipe(path, environment={}).recipe == resolve(asked, world_size=2, vocabulary=None).recipe


def test_show_tells_origin_and_reason_of_every_key() -> None:
    lines = run("show", "llama/60m", "--training.steps", "40", "--origin").stdout.splitlines()
    found = {line.split()[0]: line for line in lines}
    assert found["model.layers"].split() == ["model.layers", "8", "hanbit/recipes/llama/60m.yaml:5"]
    assert found["training.steps"].endswith("command line")
    assert found["training.seed"].endswith("default")
    assert found["model.head_dim"].endswith("default, auto: 512 hidden / 8 heads")


def test_show_as_json_has_the_same_facts() -> None:
    found = rows("llama/60m", "training.steps=40")
    assert found["training.steps"] == {"key": "training.steps", "value": 40, "origin": "command line"}
    assert found["checkpoint.every_steps"] == {
        "key": "checkpoint.every_steps",
        "value": 4,
        "origin": "default",
        "reason": "a tenth of 40 steps",
    }


def test_show_takes_as_few_processes_as_the_recipe_needs() -> None:
    assert rows("llama/60m", "parallel.tensor=2", "parallel.pipeline=2")["parallel.data"]["value"] == 1
    assert rows("llama/60m", "--processes", "4")["parallel.data"]["value"] == 4


def test_show_leaves_the_vocabulary_open_until_there_is_a_tokenizer(tmp_path: Path) -> None:
    assert rows("llama/tiny", f"data.train={tmp_path}")["model.vocabulary"]["value"] == "auto"
    (tmp_path / "tokenizer").mkdir()
    save(train(["one two three"] * 10, 300), tmp_path / "tokenizer")
    assert rows("llama/tiny", f"data.train={tmp_path}")["model.vocabulary"]["value"] > 256
    assert rows("llama/tiny", f"data.train={tmp_path}/tokens")["model.vocabulary"]["value"] > 256


def test_show_prints_and_then_refuses_what_does_not_fit() -> None:
    result = run("show", "llama/60m", "parallel.tensor=3")
    assert "tensor: 3" in result.stdout
    assert isinstance(result.exception, ConfigError)
    assert "parallel.tensor=3 does not divide" in str(result.exception)


def test_document_writes_the_tables_into_a_page(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "docs/recipes.md"
    page = tmp_path / "page.md"
    page.write_text(source.read_text(encoding="utf-8").replace("`global_batch`", "`old`"), encoding="utf-8")
    assert run("document", str(page)).exit_code == 0
    assert page.read_text(encoding="utf-8") == source.read_text(encoding="utf-8")


@pytest.mark.parametrize("override", ["--orgin", "training.steps"])
def test_a_misspelt_flag_is_no_silent_override(override: str) -> None:
    assert isinstance(run("show", "llama/60m", override).exception, ConfigError)
