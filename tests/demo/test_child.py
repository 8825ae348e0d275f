"""A command of the journey does not outlive it, and its lines are heard."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hanbit.demo.child import Child

SLEEP = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


def test_lines_are_shown_and_kept_in_the_log(tmp_path: Path) -> None:
    shown: list[str] = []
    child = Child(("python", "-c", "print('one'); print(); print('둘')"), tmp_path / "log", shown.append)
    assert child.wait() == 0
    assert shown == ["one", "둘"]
    assert (tmp_path / "log").read_text(encoding="utf-8").endswith("one\n\n둘\n")


def test_a_sign_is_waited_for_until_it_comes_or_the_child_ends(tmp_path: Path) -> None:
    child = Child(("python", "-c", "print('ready'); print('more')"), tmp_path / "log", lambda line: None)
    assert child.wait_for("ready", 20)
    child.wait()
    assert not child.wait_for("never", 20)


def test_a_stopped_child_is_gone(tmp_path: Path) -> None:
    child = Child(("python", "-c", SLEEP), tmp_path / "log", lambda line: None)
    assert child.wait_for("pid", 20)
    assert child.stop() == -signal.SIGTERM
    assert not child.is_running


def test_a_child_ends_when_the_journey_is_killed(tmp_path: Path) -> None:
    journey = (
        "from pathlib import Path; from hanbit.demo.child import Child\n"
        f"child = Child(('python', '-c', {SLEEP!r}), Path({str(tmp_path / 'log')!r}), print)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", journey], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().split()[1])
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
