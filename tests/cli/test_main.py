"""The frame of the command line, each time in a fresh process as users run it."""

import os
import subprocess
import sys
import time

import pytest

from hanbit.cli.main import as_overrides, first_sentence, verb_names


def hanbit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hanbit", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


def test_help_names_every_verb_and_is_quick() -> None:
    began = time.monotonic()
    done = hanbit("--help")
    seconds = time.monotonic() - began
    assert done.returncode == 0
    assert {"prepare", "train", "generate", "launch", "config"} <= set(verb_names())
    for verb in verb_names():
        assert f"  {verb} " in done.stdout
        assert first_sentence(verb), f"{verb} has no first sentence"
    assert seconds < 5  # here 0.06 s; the promise of 0.5 s is kept by importing nothing, which the next test holds


def test_help_imports_neither_verbs_nor_heavy_libraries() -> None:
    code = (
        "import sys; from hanbit.cli.main import run; run(['--help']);"
        "assert not {'torch', 'typer', 'pydantic', 'rich', 'hanbit.cli.train'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_korean_help_speaks_korean() -> None:
    assert "레시피대로 모델을 학습합니다" in hanbit("--help", HANBIT_LANG="ko").stdout


@pytest.mark.parametrize("verb", verb_names())
def test_every_verb_has_help_of_its_own(verb: str) -> None:
    done = hanbit(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: hanbit" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian", "demo"], "Did you mean train?"),
        (["train"], "Missing argument"),
        (["train", "no/such/recipe"], "no/such/recipe"),
        (["train", "demo", "traning.steps=3"], "Did you mean training"),
        (["generate", "demo", "--no-such-flag"], "--no-such-flag"),
        (["launch", "--processes", "0", "train", "demo"], "--processes 0"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(arguments: list[str], words: str) -> None:
    done = hanbit(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_model_folder_is_a_failure_not_a_traceback() -> None:
    done = hanbit("generate", "nowhere", "hello")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in hanbit("--debug", "train", "no/such/recipe").stderr


def test_dotted_options_are_overrides() -> None:
    given = [
        "train",
        "demo",
        "--training.steps",
        "5",
        "--optimizer.learning_rate=1e-4",
        "batch.micro_batch=2",
        "--json",
    ]
    wanted = ["train", "demo", "training.steps=5", "optimizer.learning_rate=1e-4", "batch.micro_batch=2", "--json"]
    assert as_overrides(given) == wanted


def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert hanbit("--version").stdout == f"hanbit {version('hanbit')}\n"
