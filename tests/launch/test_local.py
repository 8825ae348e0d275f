"""The launcher with real processes and a tiny script in place of training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.alive import wait_until_gone

# What a rank does. Like `hanbit` itself it ends with its parent and notes its failure.
SCRIPT = """
import os, signal, sys, time
from hanbit.launch.failure import note_failure
from hanbit.launch.parent import end_with_parent

end_with_parent(signal.SIGKILL)
folder, what = sys.argv[1:]
rank = int(os.environ["RANK"])
open(f"{folder}/pid_{rank}", "w").write(str(os.getpid()))
print("hello from", rank, file=sys.stderr, flush=True)
print("result of", rank)

def fail(words, code):
    print(words, file=sys.stderr, flush=True)
    note_failure(words, code)
    sys.exit(code)

def wait_for(name):
    while not os.path.exists(f"{folder}/{name}"):
        time.sleep(0.001)

if what.startswith("fail together"):  # rank 1 fails; the others lose it and are gone before it is
    if rank == 1:
        wait_for("pid_0"), wait_for("pid_2")
        print("rank one gives up", file=sys.stderr, flush=True)
        note_failure("rank one gives up", 1)
        open(f"{folder}/lost", "w").close()
        time.sleep(5 if "slowly" in what else 0)
        sys.exit(1)
    wait_for("lost")
    fail("connection closed by peer", 1)
if what == "wrong recipe":
    fail("no such key", 2)
if what == "again" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    fail("the first time it fails", 1)
if what == "wait":
    time.sleep(60)
"""

LAUNCH = """
import sys
from pathlib import Path
from hanbit.common.errors import HanbitError
from hanbit.common.log import start_logging
from hanbit.launch import job, local

start_logging()
folder, what, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

class Scripted(job.Job):
    def command(self):
        command = super().command()
        place = command.index("hanbit") - 1
        return [*command[:place], str(folder / "script.py"), str(folder), what]

try:
    restarts = 1 if what == "again" else 0
    sys.exit(local.run(Scripted(("script",), size, folder / "logs", max_restarts=restarts)))
except HanbitError as problem:
    print(problem, file=sys.stderr)
    sys.exit(problem.exit_code)
"""


def launch(folder: Path, what: str, size: int) -> "subprocess.Popen[str]":
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-c", LAUNCH, str(folder), what, str(size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def pids(folder: Path, size: int) -> list[int]:
    """Of the ranks, once all of them run."""
    files = [folder / f"pid_{rank}" for rank in range(size)]
    for _ in range(600):
        if all(file.exists() and file.read_text() for file in files):
            return [int(file.read_text()) for file in files]
        time.sleep(0.1)
    raise AssertionError("ranks did not start")


def test_all_ranks_run_and_only_rank_0_speaks(tmp_path: Path) -> None:
    process = launch(tmp_path, "end", 3)
    said, talk = process.communicate(timeout=60)
    assert process.returncode == 0, talk
    assert said == "result of 0\n"  # nothing of torchrun's around it: `--json` can be read by a program
    assert "hello from 0" in talk.splitlines()
    assert "hello from 1" not in talk
    assert len(pids(tmp_path, 3)) == 3
    kept = [path.read_text() for path in sorted(tmp_path.glob("logs/*/attempt_0/*/stdout.log"))]
    assert kept == ["result of 0\n", "result of 1\n", "result of 2\n"]


@pytest.mark.parametrize("how", ["at once", "slowly"])  # slowly: torchrun ends it while it is still leaving
def test_of_ranks_that_fail_together_the_cause_is_named_once(tmp_path: Path, how: str) -> None:
    process = launch(tmp_path, f"fail together {how}", 3)
    ranks = pids(tmp_path, 3)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 1
    assert talk.count("rank 1 of 3 ended with exit code 1") == 1
    assert talk.count("rank one gives up") == 1
    assert "Traceback" not in talk
    assert "Root Cause" not in talk
    wait_until_gone(ranks)


def test_wrong_configuration_found_by_the_ranks_is_exit_code_2(tmp_path: Path) -> None:
    process = launch(tmp_path, "wrong recipe", 2)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 2
    assert talk.count("of 2 ended with exit code 2") == 1
    assert "no such key" in talk


def test_killed_rank_ends_the_group_and_is_named(tmp_path: Path) -> None:
    process = launch(tmp_path, "wait", 3)
    ranks = pids(tmp_path, 3)
    began = time.monotonic()
    os.kill(ranks[2], signal.SIGKILL)
    _, talk = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 1
    assert "rank 2 of 3 was ended by SIGKILL" in talk
    wait_until_gone(ranks)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_launcher_leaves_nothing_and_exits_130(tmp_path: Path, number: signal.Signals) -> None:
    process = launch(tmp_path, "wait", 2)
    ranks = pids(tmp_path, 2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    wait_until_gone(ranks)


def test_killed_launcher_leaves_nothing(tmp_path: Path) -> None:
    process = launch(tmp_path, "wait", 2)
    ranks = pids(tmp_path, 2)
    process.kill()
    process.communicate(timeout=60)
    wait_until_gone(ranks)


def test_killed_torchrun_leaves_nothing(tmp_path: Path) -> None:
    """Its ranks are in sessions of their own: no signal to its process group reaches them."""
    process = launch(tmp_path, "wait", 2)
    ranks = pids(tmp_path, 2)
    torchrun = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    os.kill(torchrun, signal.SIGKILL)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "torchrun was ended by SIGKILL" in talk
    wait_until_gone(ranks)


def test_failed_group_is_started_again_as_often_as_asked(tmp_path: Path) -> None:
    process = launch(tmp_path, "again", 2)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 0, talk
    assert len(list(tmp_path.glob("logs/*/attempt_1/*/stderr.log"))) == 2
