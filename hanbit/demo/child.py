"""A command of the journey as a child process: it ends with us, its output goes to a log, its newest line is shown.

Whatever ends the journey (Ctrl-C, SIGTERM, SIGKILL, a crash), the kernel tells the child (launch/parent.py), which ends
its own children in turn: nothing is left running.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hanbit.launch.parent import end_with_parent

_PATIENCE_SECONDS = 30.0  # for a child that was asked to end: a run in training commits a checkpoint first


class Child:
    """`command`: as a user types it, `hanbit ...` or `python -m ...`; `show` gets every line as it comes; `inherits`:
    open files that are its own, too."""

    def __init__(
        self, command: Sequence[str], log: Path, show: Callable[[str], None], inherits: Sequence[int] = ()
    ) -> None:
        self.lines: list[str] = []
        self._show = show
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = open(log, "w", encoding="utf-8")  # noqa: SIM115 - open for the child's life
        self._log.write(f"$ {shlex.join(command)}\n")
        ours = os.getpid()
        self._process = subprocess.Popen(
            as_started(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            pass_fds=inherits,
            start_new_session=True,  # a terminal's Ctrl-C reaches it through us alone
            preexec_fn=lambda: end_with_parent(signal.SIGTERM, ours),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        """The exit code, once it has ended and its output is read."""
        code = self._process.wait()
        self._close()
        return code

    def wait_for(self, sign: str, seconds: float) -> bool:
        """True as soon as a line with `sign` has come; False if the child ended or the time is over before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.is_running:
            if self._has_said(sign):
                return True
            time.sleep(0.05)
        if not self.is_running:
            self._reader.join(timeout=5)  # what it said last is still on its way
        return self._has_said(sign)

    def _has_said(self, sign: str) -> bool:
        return any(sign in line for line in list(self.lines))

    def stop(self) -> int:
        """Ask it to end, insist after a while; the exit code."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._log.write(line)
            self._log.flush()
            self.lines.append(line.rstrip("\n"))
            if line.strip():
                self._show(line.strip())

    def _close(self) -> None:
        self._reader.join(timeout=5)
        self._log.close()


def as_started(command: Sequence[str]) -> list[str]:
    """`hanbit` and `python` are this very installation, whatever is first on the path."""
    if command[0] == "hanbit":
        return [sys.executable, "-m", "hanbit", *command[1:]]
    return [sys.executable, *command[1:]] if command[0] == "python" else list(command)
