"""Run a job on this machine: a thin wrapper of torchrun that cleans up after itself and names what failed once.

Ctrl-C and SIGTERM are passed on to torchrun, which tells its ranks and waits for them. Should the launcher itself be
killed, the kernel tells torchrun; should torchrun be killed, the kernel ends its ranks (`parent.py`).
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hanbit.common.errors import ConfigError, LaunchError
from hanbit.launch.failure import Failure, first_failure
from hanbit.launch.job import Job
from hanbit.launch.parent import end_with_parent

logger = logging.getLogger(__name__)
INTERRUPTED = 130
_LAST_LINES = 8
_PREFIX = "[default0]:"  # what torchrun puts before the lines of the rank that it shows


def run(job: Job) -> int:
    """Start the job and wait for it; the exit code: 0, or 130 if it was interrupted.

    Raises LaunchError that names the first rank that failed, ConfigError if that rank found the configuration wrong.
    """
    settings = job.settings()
    logger.info("%d processes, %s thread(s) each; logs %s", job.processes, settings["OMP_NUM_THREADS"], job.log_folder)
    job.log_folder.mkdir(parents=True, exist_ok=True)
    process = _start(job, settings)
    talk: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    readers = [_reader(process.stdout, sys.stdout, []), _reader(process.stderr, sys.stderr, talk)]
    with _signals_passed_to(process) as passed:
        code = process.wait()
    for reader in readers:
        reader.join(timeout=5)
    if passed:
        return INTERRUPTED
    if code != 0:
        raise _error(job, code, "".join(talk))
    return 0


def _start(job: Job, settings: dict[str, str]) -> "subprocess.Popen[str]":
    ours = os.getpid()
    return subprocess.Popen(
        job.command(),
        env={**os.environ, **settings, "PYTHONUNBUFFERED": "1"},  # or torchrun would keep rank 0's stdout to the end
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a terminal's Ctrl-C reaches it through us alone
        preexec_fn=lambda: end_with_parent(signal.SIGTERM, ours),
    )


def _reader(stream: IO[str], target: IO[str], kept: list[str]) -> threading.Thread:
    """Rank 0's lines go to our own stream; torchrun's are kept for the case that something fails."""

    def pass_on() -> None:
        for line in stream:
            if line.startswith(_PREFIX):
                target.write(line.removeprefix(_PREFIX))
                target.flush()
            else:
                kept.append(line)

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    return thread


@contextmanager
def _signals_passed_to(process: "subprocess.Popen[str]") -> Iterator[list[int]]:
    """To torchrun alone, which tells its ranks and waits for them; yields the signals that came."""
    passed: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        passed.append(number)
        if process.poll() is None:
            process.send_signal(number)

    old = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield passed
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _error(job: Job, code: int, talk: str) -> LaunchError | ConfigError:
    failure = first_failure(talk)
    if failure is not None:
        kind = ConfigError if failure.code == ConfigError.exit_code else LaunchError
        return kind(f"rank {failure.rank} of {job.size} {failure.reason}. {_last_words(job, failure)}")
    if code < 0:
        return LaunchError(f"torchrun was ended by {signal.Signals(-code).name}, and its ranks with it")
    return LaunchError(f"torchrun failed:\n{talk[-2000:]}")


def _last_words(job: Job, failure: Failure) -> str:
    log = newest_log(job.log_folder, failure.local_rank)
    if log is None:
        return f"It left no log in {job.log_folder}: look on the node that it ran on"
    if failure.local_rank == 0:  # its lines have been on the terminal
        return f"What it said is above, and in {log}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return "\n".join([f"Its last lines ({log}):", *(f"  {line}" for line in lines)])


def newest_log(folder: Path, local_rank: int) -> Path | None:
    """torchrun makes FOLDER/<random>/attempt_N/<local rank>/stderr.log."""
    found = folder.glob(f"*/attempt_*/{local_rank}/stderr.log")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
