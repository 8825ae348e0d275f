"""The launcher with real processes and a tiny script in place of training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanbit.common.errors import ConfigError
from hanbit.launch.job import Job

SCRIPT = """
import os, sys, time
folder = sys.argv[1]
rank = os.environ["RANK"]
open(f"{folder}/pid_{rank}", "w").write(str(os.getpid()))
print("hello from", rank, file=sys.stderr, flush=True)
if sys.argv[2] == "fail" and rank == "1":
    time.sleep(1)
    sys.exit("rank one gives up")
if sys.argv[2] != "end":
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
made = job.Job(("script",), size, folder / "logs")
class Scripted(job.Job):
    def command(self):
        command = super().command()
        place = command.index("hanbit") - 1
        return [*command[:place], str(folder / "script.py"), str(folder), what]
try:
    sys.exit(local.run(Scripted(("script",), size, folder / "logs")))
except HanbitError as problem:
    print(problem, file=sys.stderr)
    sys.exit(1)
"""


def launch(folder: Path, what: str, size: int) -> "subprocess.Popen[str]":
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-c", LAUNCH, str(folder), what, str(size)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def pids(folder: Path, size: int) -> list[int]:
    """Of the ranks, once all of them run."""
    files = [folder / f"pid_{rank}" for rank in range(size)]
    for _ in range(600):
        if all(file.exists() and file.read_text() for file in files):
            return [int(file.read_text()) for file in files]
        time.sleep(0.1)
    raise AssertionError("ranks did not start")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(processes: list[int], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while any(map(is_alive, processes)):
        assert time.monotonic() < end, "processes were left behind"
        time.sleep(0.1)


def test_all_ranks_run_and_only_rank_0_speaks(tmp_path: Path) -> None:
    process = launch(tmp_path, "end", 3)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 0, talk
    assert "hello from 0" in talk
    assert "hello from 1" not in talk
    assert len(pids(tmp_path, 3)) == 3


def test_rank_that_fails_is_named_once_with_its_last_words(tmp_path: Path) -> None:
    process = launch(tmp_path, "fail", 3)
    ranks = pids(tmp_path, 3)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 1
    assert talk.count("rank 1 of 3 ended with exit code 1") == 1
    assert "rank one gives up" in talk
    assert "Traceback" not in talk
    wait_until_gone(ranks)


def test_killed_rank_ends_the_group_and_is_named(tmp_path: Path) -> None:
    process = launch(tmp_path, "wait", 3)
    ranks = pids(tmp_path, 3)
    began = time.monotonic()
    os.kill(ranks[2], signal.SIGKILL)
    _, talk = process.communicate(timeout=60)
    assert time.monotonic() - began < 15
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
    wait_until_gone(ranks, seconds=40)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"processes": 0}, "--processes 0"),
        ({"nodes": 2}, "needs --address"),
        ({"nodes": 2, "node_rank": 2, "address": "a:1"}, "from 0 to 1"),
    ],
)
def test_wrong_layouts_are_refused(tmp_path: Path, wrong: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Job(("train",), **{"processes": 1, "log_folder": tmp_path, **wrong})


def test_several_nodes_meet_at_the_given_address(tmp_path: Path) -> None:
    job = Job(("train", "demo"), 4, tmp_path, nodes=2, node_rank=1, address="10.0.0.1:29500")
    command = " ".join(job.command())
    for part in (
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=10.0.0.1",
        "--master-port=29500",
        "-m hanbit train demo",
    ):
        assert part in command
