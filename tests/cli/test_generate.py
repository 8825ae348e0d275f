"""The verb `generate` as a user meets it: streams, JSON, stdin, chats, and what is refused."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from hanbit.cli import generate
from hanbit.common.errors import ConfigError, DataError, GenerationError
from hanbit.engine.llm import LLM
from hanbit.engine.output import Piece
from hanbit.engine.sampling_params import SamplingParams
from tests.engine.folders import HUB_COMMIT, write_folder, write_hub_cache
from tests.engine.test_adapters import write_adapter

APP = typer.Typer()
APP.command()(generate.command)
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{% endfor %}a:"
SEEDED = ["--seed", "3", "--max-tokens", "12", "--temperature", "1.2", "--top-p", "0.9"]
PARAMS = SamplingParams(seed=3, max_tokens=12, temperature=1.2, top_p=0.9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_folder(path, "llama")
    return path


@pytest.fixture
def chat_folder(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(TEMPLATE)
    return tmp_path / "model"


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments], input=stdin)


def test_the_streamed_text_is_the_answer_and_the_numbers_go_to_stderr(folder: Path) -> None:
    result = run(folder, "The quick", *SEEDED)
    answer = LLM(folder).generate(["The quick"], PARAMS)[0]
    assert result.exit_code == 0
    assert result.stdout == answer.text + "\n"
    assert f"{len(answer.token_ids)} tokens, first after" in result.stderr
    assert "tokens/s" in result.stderr
    assert run(folder, "The quick", *SEEDED, "--no-stream").stdout == answer.text + "\n"


def test_an_adapter_folder_is_put_on_the_model(folder: Path, tmp_path: Path) -> None:
    write_adapter(folder, tmp_path / "polite", 1, ["q_proj", "down_proj"])
    llm = LLM(folder)
    llm.add_adapter("polite", tmp_path / "polite")
    result = run(folder, "The quick", *SEEDED, "--no-stream", "--adapter", tmp_path / "polite")
    assert result.stdout == llm.generate(["The quick"], PARAMS, adapter="polite")[0].text + "\n"
    assert result.stdout != run(folder, "The quick", *SEEDED, "--no-stream").stdout


def test_json_holds_the_answer_and_nothing_else_is_printed(folder: Path) -> None:
    result = run(folder, "The quick", *SEEDED, "--json")
    facts = json.loads(result.stdout)
    answer = LLM(folder).generate(["The quick"], PARAMS)[0]
    assert facts["text"] == answer.text
    assert tuple(facts["token_ids"]) == answer.token_ids
    assert facts["finish_reason"] == "length"
    assert facts["tokens"] == 12
    assert 0 < facts["first_token_seconds"] < 60
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [["-"], []], ids=["dash", "piped"])
def test_stdin_is_a_prompt(folder: Path, arguments: list[str]) -> None:
    piped = run(folder, *arguments, *SEEDED, stdin="The quick")
    assert piped.stdout == run(folder, "The quick", *SEEDED).stdout


@pytest.mark.parametrize(
    ("prompt", "stdin", "message"),
    [
        ("-", b"ab\xff\xfe", "standard input: byte 0xff at place 3 is not UTF-8"),
        ("ab\udcff", None, "byte 0xff at character 3, which is not UTF-8"),  # as Python holds such an argument
        ("\ud83d", None, r"half a surrogate pair \(\\ud83d\) at character 1"),
    ],
)
def test_a_prompt_that_is_not_utf_8_is_one_error(folder: Path, prompt: str, stdin: bytes | None, message: str) -> None:
    result = CliRunner().invoke(APP, [str(folder), prompt], input=stdin)
    assert isinstance(result.exception, GenerationError)
    assert re.search(message, str(result.exception))
    assert result.stdout == ""


def test_the_answer_has_the_form_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"enum": [12, 34]}')
    (tmp_path / "grammar.lark").write_text('start: "x" | "y"')
    for asked, pattern in (
        (["--regex", "[a-d]{3}"], "[a-d]{3}"),
        (["--choice", "예", "--choice", "no"], "예|no"),
        (["--json-schema", tmp_path / "schema.json"], "12|34"),
        (["--grammar", tmp_path / "grammar.lark"], "x|y"),
    ):
        assert re.fullmatch(pattern, run(folder, "The quick", *SEEDED, *asked).stdout.strip())
    (tmp_path / "schema.json").write_text("{")
    refused = run(folder, "The", "--json-schema", tmp_path / "schema.json")
    assert isinstance(refused.exception, ConfigError)
    assert "--json-schema is not JSON" in str(refused.exception)


def test_stop_may_be_given_again_and_cuts(folder: Path) -> None:
    text = run(folder, "The quick", *SEEDED).stdout
    stopped = run(folder, "The quick", *SEEDED, "--stop", "never said", "--stop", text[4:6]).stdout
    assert stopped == text[: text.index(text[4:6])] + "\n"


def test_a_repetition_penalty_is_that_of_the_engine(folder: Path) -> None:
    greedy = ["--temperature", "0", "--max-tokens", "24"]
    params = SamplingParams(temperature=0, max_tokens=24, repetition_penalty=1.6)
    found = run(folder, "The quick", *greedy, "--repetition-penalty", "1.6").stdout
    assert found == LLM(folder).generate(["The quick"], params)[0].text + "\n"
    assert found != run(folder, "The quick", *greedy).stdout


def test_the_makers_search_counts_until_a_flag_says_how_to_draw(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    makers: dict[str, Any] = {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True}
    words = [[id] for id in range(100, 140)]
    said = {**makers, "bad_words_ids": words}
    (tmp_path / "model/generation_config.json").write_text(json.dumps(said))
    llm = LLM(folder)

    def text(**more: Any) -> str:
        return llm.generate(["The"], SamplingParams(max_tokens=12, bad_words=words, **more))[0].text + "\n"

    asked = (tmp_path / "model", "The", "--max-tokens", 12)
    assert run(*asked).stdout == text(**makers)
    assert run(*asked, "--num-beams", 2, "--no-early-stopping").stdout == text(num_beams=2, length_penalty=0.5)
    assert run(*asked, "--seed", 3).stdout == text(seed=3, temperature=0.8, top_p=0.95)
    assert run(*asked, "--temperature", 0).stdout == text(temperature=0)


def test_a_chat_template_is_used_where_there_is_one_unless_forbidden(chat_folder: Path) -> None:
    asked = run(chat_folder, "안녕", *SEEDED, "--system", "Be kind").stdout
    assert asked == run(chat_folder, "s:Be kindu:안녕a:", "--no-chat", *SEEDED).stdout
    assert asked != run(chat_folder, "안녕", *SEEDED, "--no-chat").stdout


def test_guesses_change_no_answer_and_are_told_at_the_end(folder: Path) -> None:
    plain = run(folder, "The quick the quick", *SEEDED)
    guessed = run(folder, "The quick the quick", *SEEDED, "--speculation", "prompt_lookup", "--prompt-lookup-min", "1")
    assert guessed.stdout == plain.stdout
    assert re.search(r", \d+ of [1-9]\d* guessed tokens were right$", guessed.stderr.strip())
    assert "guessed" not in plain.stderr
    itself = run(folder, "The quick the quick", *SEEDED, "--temperature", "0", "--draft-model", folder)
    assert re.search(r", ([1-9]\d*) of \1 guessed tokens were right$", itself.stderr.strip())


def test_a_chat_without_a_template_is_refused(folder: Path) -> None:
    assert isinstance(run(folder, "안녕", "--chat").exception, DataError)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--temperature", "-1"],
        ["--top-p", "0"],
        ["--max-tokens", "0"],
        ["--repetition-penalty", "0"],
        ["--no-chat", "--system", "x"],
        ["--speculation", "ngrams"],
        ["--num-speculative-tokens", "40"],
        ["--prompt-lookup-max", "1"],
        ["--draft-model", "x", "--speculation", "prompt_lookup"],
    ],
    ids=str,
)
def test_wrong_flags_are_refused_before_the_model_is_looked_for(wrong: list[str]) -> None:
    problem = run("nowhere", "x", *wrong).exception
    assert isinstance(problem, ConfigError)
    assert wrong[0] in str(problem)


def test_a_prompt_over_the_context_is_one_error(folder: Path) -> None:
    result = run(folder, "The quick " * 100)
    assert isinstance(result.exception, GenerationError)
    assert result.stdout == ""


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines that a user will type; the end of them is Ctrl-D."""
    lines: list[str] = []

    def line(prompt: str) -> str:
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr("sys.stdin", Keyboard())
    monkeypatch.setattr("builtins.input", line)
    return lines


def talk(folder: Path, **options: object) -> None:
    generate.command(str(folder), max_tokens=6, temperature=0, **options)  # type: ignore[arg-type]


def test_a_conversation_remembers_and_ends_at_exit(
    chat_folder: Path, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed += ["one", "", "two", "/exit", "never read"]
    talk(chat_folder, system="S")
    llm, params = LLM(chat_folder), SamplingParams(temperature=0, max_tokens=6)
    first = llm.generate(["s:Su:onea:"], params)[0].text
    second = llm.generate([f"s:Su:onea:{first}u:twoa:"], params)[0].text
    assert capsys.readouterr().out == f"{first}\n{second}\n"
    assert typed == ["never read"]


def test_a_long_conversation_forgets_its_oldest_exchange_and_says_so(
    chat_folder: Path, typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    typed += ["a"] * 6
    talk(chat_folder)
    captured = capsys.readouterr()
    assert "oldest exchange is forgotten" in captured.err
    assert captured.err.count("tokens, first after") == 6


def test_a_line_over_the_context_is_an_error_and_the_talk_goes_on(
    folder: Path,
    typed: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed += ["The quick " * 100, "The"]
    talk(folder)
    captured = capsys.readouterr()
    assert "context holds 64" in captured.err
    assert (
        captured.out.rstrip("\n") == LLM(folder).generate(["The"], SamplingParams(temperature=0, max_tokens=6))[0].text
    )


def test_ctrl_c_cuts_an_answer_short_and_the_talk_goes_on(
    folder: Path,
    typed: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed += ["The", "The"]
    stream, calls = LLM.stream, []

    def interrupted(self: LLM, *arguments: Any, **options: Any) -> Iterator[Piece]:
        calls.append(arguments)
        for index, piece in enumerate(stream(self, *arguments, **options)):
            if len(calls) == 1 and index == 2:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(LLM, "stream", interrupted)
    talk(folder)
    errors = capsys.readouterr().err
    assert "2 tokens, first after" in errors
    assert "6 tokens, first after" in errors


IN_HUB = """
import sys
from hanbit.cli.main import run
for name in sys.argv[2:]:
    print("exit", run(["generate", name, *sys.argv[1].split("|")]), flush=True)
"""


def test_a_hub_name_and_its_revision_are_taken_from_the_cache(folder: Path, tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its variables once."""
    write_hub_cache(tmp_path, "some/model", folder)
    flags = ["The quick", *SEEDED]
    there, absent = ["some/model@main", f"some/model@{HUB_COMMIT}", "some/model"], ["some/other", "some/model@old"]
    done = subprocess.run(
        [sys.executable, "-c", IN_HUB, "|".join(flags), *there, *absent],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "HANBIT_LANG": "en"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == (run(folder, *flags).stdout + "exit 0\n") * 3 + "exit 1\n" * 2
    refused = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for name, line in zip(absent, refused, strict=True):
        assert f"{name} is no file or folder here, not in the hub's cache, and the hub cannot be reached" in line
