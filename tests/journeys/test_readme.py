"""The README word by word: its commands run in order in an empty folder, and what it promises is looked for."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journeys.pages import ROOT, blocks_of

TIMEOUT_SECONDS = 900


def script_of(page: Path) -> str:
    """All commands of a page as one shell script: a later block uses what an earlier one has started."""
    lines = ["set -eu"]
    for block in blocks_of(page):
        if block.language == "sh":
            lines.append(block.text)
        elif block.language == "python":
            lines.append(f"python - <<'END_OF_PYTHON'\n{block.text}END_OF_PYTHON\n")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder after the last command, and all that was printed."""
    folder = tmp_path_factory.mktemp("readme")
    home = folder / "home"
    home.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(home), "HANBIT_HOME": str(home / "hanbit")}
    environment.pop("OMP_NUM_THREADS", None)  # as a reader's shell
    shell = subprocess.Popen(
        ["bash", "-c", script_of(ROOT / "README.md")],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = shell.communicate(timeout=TIMEOUT_SECONDS)
    finally:  # a server that was started in the background would outlive the shell
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, printed[-6000:]
    return folder, printed


@pytest.mark.slow
def test_the_killed_run_is_continued_and_not_begun_again(journey: tuple[Path, str]) -> None:
    folder, printed = journey
    assert "continuing runs/first after step" in printed
    rows = [json.loads(line) for line in (folder / "runs/first/metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, len(steps) + 1))  # no step twice, none left out


@pytest.mark.slow
def test_the_model_has_learnt(journey: tuple[Path, str]) -> None:
    folder, _ = journey
    rows = [json.loads(line) for line in (folder / "runs/first/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_transformers_gives_equal_logits(journey: tuple[Path, str]) -> None:
    assert "equal logits" in journey[1]


@pytest.mark.slow
def test_every_promised_file_is_there(journey: tuple[Path, str]) -> None:
    folder, _ = journey
    run = ("config.resolved.yaml", "env.json", "metrics.jsonl", "report.html", "hanbit.json", "logs/rank_3.log")
    for name in (*run, "checkpoints/latest", "model/config.json", "model/model.safetensors", "model/tokenizer.json"):
        assert (folder / "runs/first" / name).is_file(), name


def test_the_readme_has_commands_for_every_promise() -> None:
    script = script_of(ROOT / "README.md")
    for promise in ("hanbit prepare", "parallel.tensor=2 parallel.pipeline=2", "kill -9", "AutoModelForCausalLM",
                    "hanbit generate"):  # fmt: skip
        assert promise in script
