"""Whether processes that are no children of ours still run."""

import time
from collections.abc import Sequence
from pathlib import Path


def is_alive(pid: int) -> bool:
    """A zombie waits for its new parent to look at it, and is gone as far as we care."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(processes: Sequence[int], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while any(map(is_alive, processes)):
        assert time.monotonic() < end, "processes were left behind"
        time.sleep(0.1)
