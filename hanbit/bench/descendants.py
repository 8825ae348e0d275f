"""Every process that came of one start, whoever is its parent by now: they inherit a mark in their environment."""

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path

_NAME = "HANBIT_BENCH_MARK"
_PSS = "Pss:"


class Mark:
    """Put `environment` into that of the first process; Linux shows it for all that come of it."""

    def __init__(self) -> None:
        self._value = f"{_NAME}={uuid.uuid4().hex}"

    @property
    def environment(self) -> dict[str, str]:
        name, _, value = self._value.partition("=")
        return {name: value}

    def processes(self) -> list[int]:
        """Those that run now; a zombie has no environment and has ended as far as we care."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
                if self._value.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def wait_until_gone(self, seconds: float) -> list[int]:
        """Those that still run when the time is over; none is what one hopes for."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        return left

    def kill(self) -> None:
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def memory_bytes(self) -> int:
        """Resident now, what several share counted once (PSS), and files that are mapped with it."""
        return sum(map(_resident_bytes, self.processes()))


def command_of(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return f"process {process}"


def _resident_bytes(process: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith(_PSS):
                return int(line.split()[1]) * 1024
    return 0
