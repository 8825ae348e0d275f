"""The frame of the command line, each time in a fresh process as users run it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanbit.cli.main import as_overrides, first_sentence, verb_names
from tests.launch.alive import wait_until_gone


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
        (["launch", "--cluster", "slurm", "train", "demo"], "--cluster 'slurm' is not built yet"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(arguments: list[str], words: str) -> None:
    done = hanbit(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HANBIT_LOG": "bogus"}, "HANBIT_LOG=bogus is no level. Use debug, info"),
        ({"RANK": "x"}, "RANK=x must be a whole number"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two must be a whole number"),
    ],
)
def test_wrong_environment_is_one_message_and_exit_code_2(environment: dict[str, str], words: str) -> None:
    done = hanbit("config", "show", "demo", **environment)
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


def test_unforeseen_error_names_its_place_and_hides_its_traceback() -> None:
    code = (
        "import sys; import hanbit.cli.doctor as doctor; from hanbit.cli.main import run\n"
        "doctor._memory_bytes = lambda: 'no' / 2\n"
        "sys.exit(run(sys.argv[1:]))"
    )
    quiet, loud = (
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        for arguments in (["doctor"], ["doctor", "--debug"])
    )
    assert (quiet.returncode, loud.returncode) == (1, 1)
    assert re.search(r"error: TypeError: .*/hanbit/cli/doctor\.py:\d+\)\. Add --debug", quiet.stderr)
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


def test_an_error_that_says_nothing_stands_for_its_cause() -> None:
    code = (
        "import sys; import hanbit.cli.doctor as doctor; from hanbit.cli.main import run\n"
        "def fail():\n"
        "    try: raise ValueError('the reason')\n"
        "    except ValueError as reason: raise RuntimeError from reason\n"
        "doctor._memory_bytes = fail\n"
        "sys.exit(run(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: ValueError: the reason (" in done.stderr


def test_what_the_system_refuses_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    done = hanbit("train", str(tmp_path / "folder.yaml"))
    assert done.returncode in (1, 2)
    assert "folder.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_reader_that_goes_away_is_no_fault() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m hanbit config schema | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["{", "0"]
    assert done.stderr == ""


def test_ctrl_c_is_130_within_two_seconds_and_no_traceback(tmp_path: Path) -> None:
    """In the middle of work: `prepare` reads a pipe into which nobody writes."""
    endless = tmp_path / "endless.txt"
    os.mkfifo(endless)
    command = [sys.executable, "-m", "hanbit", "prepare", str(endless), "--output", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--vocabulary", "300"], stderr=subprocess.PIPE, text=True)
    writer = until_somebody_reads(endless)
    time.sleep(0.5)  # between opening and reading Python does not hear a signal until something comes
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=30)
    os.close(writer)
    assert time.monotonic() - began < 2
    assert process.returncode == 130
    assert talk == "interrupted\n"


def until_somebody_reads(pipe: Path) -> int:
    """The open end to write into."""
    for _ in range(300):
        with contextlib.suppress(OSError):
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.1)
    raise AssertionError(f"nobody reads {pipe}")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
@pytest.mark.parametrize("is_rank", [True, False])
def test_rank_ends_with_its_torchrun_and_a_lone_command_lives_on(tmp_path: Path, is_rank: bool) -> None:
    """`nohup hanbit train &` must outlive its shell; a rank must not outlive torchrun."""
    child = (
        "import os, sys, time; from hanbit.cli import main; main.run = lambda arguments: time.sleep(20);"
        "print(os.getpid(), flush=True); main.main()"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"} if is_rank else dict(os.environ)
    torchrun = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=environment)
    assert torchrun.stdout is not None
    rank = int(torchrun.stdout.readline())
    time.sleep(0.5)  # from its first words to the end of main's imports
    torchrun.kill()
    torchrun.wait()
    if is_rank:
        wait_until_gone([rank], seconds=5)
    else:
        time.sleep(0.5)
        os.kill(rank, signal.SIGKILL)  # ProcessLookupError if it was gone


def test_verb_that_does_not_exist_is_refused_in_korean_too() -> None:
    done = hanbit("trian", HANBIT_LANG="ko")
    assert done.returncode == 2
    assert done.stderr == "오류: 모르는 명령입니다: 'trian'. 비슷한 이름: train.\n"


def test_every_line_of_help_is_korean_in_korean() -> None:
    lines = hanbit("--help", HANBIT_LANG="ko").stdout.splitlines()
    told = [line for line in lines if line and not line.startswith("hanbit VERB")]
    assert len(told) > len(verb_names())
    assert [line for line in told if not re.search("[가-힣]", line)] == []


@pytest.mark.parametrize(
    ("typed", "offered"), [("hanbit tr", "train"), ("hanbit config s", "schema"), ("hanbit train --j", "--json")]
)
def test_shell_completes_verbs_and_their_options(typed: str, offered: str) -> None:
    place = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_HANBIT_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [Path(sys.executable).with_name("hanbit")], capture_output=True, text=True, env={**os.environ, **place}
    )
    assert offered in done.stdout.split()
