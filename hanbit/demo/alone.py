"""One journey at a time in one place: the next waits until an earlier one's commands have ended, too.

They hold the lock with us (an open file that they inherit), so it is free only when the last of them is gone: after
kill -9 a training may still be committing its checkpoint.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hanbit.common.errors import ConfigError

PATIENCE_SECONDS = 60.0  # a training that was told to end commits a checkpoint first


@contextlib.contextmanager
def alone(path: Path, say: Callable[[str], None], seconds: float = PATIENCE_SECONDS) -> Iterator[int]:
    """The open file to be inherited; `path` is made. Raises ConfigError if another journey goes on for too long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        _lock(file.fileno(), path, say, seconds)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _lock(file: int, path: Path, say: Callable[[str], None], seconds: float) -> None:
    end, has_said = time.monotonic() + seconds, False
    while True:
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner = path.read_text(encoding="utf-8") or "unknown"
        if not has_said:
            say(f"an earlier demo of this folder (process {owner}) has not ended; waiting {seconds:.0f} s at most")
            has_said = True
        if time.monotonic() > end:
            raise ConfigError(f"{path.parent} is in use by another demo (process {owner}). Wait for it, or stop it")
        time.sleep(0.2)
