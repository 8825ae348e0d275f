"""Run a job on this machine: a thin wrapper of torchrun that cleans up after itself and names what failed once.

The launcher's processes live in a process group of their own. Ctrl-C and SIGTERM are passed on to torchrun; should
the launcher itself be killed, the kernel tells torchrun, which ends its ranks.
"""

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hanbit.common.errors import LaunchError
from hanbit.launch.job import Job

logger = logging.getLogger(__name__)
INTERRUPTED = 130
_SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
# torchrun's own table of what failed: the block behind "Root Cause" has the first failing rank
_ROOT_CAUSE = re.compile(
    r"Root Cause.*?rank\s*:\s*(?P<rank>\d+)\s*\(local_rank:\s*(?P<local>\d+)\).*?exitcode\s*:\s*(?P<code>-?\d+)",
    re.DOTALL,
)


def run(job: Job) -> int:
    """Start the job and wait for it; the exit code. Raises LaunchError that names the first rank that failed."""
    environment = job.environment()
    logger.info("%d processes, %s thread(s) each", job.processes, environment["OMP_NUM_THREADS"])
    job.log_folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        job.command(),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    talk: list[str] = []
    reader = threading.Thread(target=_pass_on, args=(process.stderr, talk), daemon=True)
    reader.start()
    with _signals_passed_to(process) as passed:
        code = process.wait()
    reader.join(timeout=5)
    _end_group(process.pid)
    if passed:
        return INTERRUPTED
    if code != 0:
        raise LaunchError(_what_failed("".join(talk), job))
    return 0


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _pass_on(stream: IO[str], talk: list[str]) -> None:
    """Rank 0's lines go to our stderr; torchrun's own are kept for the case that something fails."""
    for line in stream:
        talk.append(line)
        if line.startswith("[default0]:"):
            text = line.removeprefix("[default0]:")
            sys.stderr.write(text)
            sys.stderr.flush()


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


def _end_group(group: int) -> None:
    """No process of the job outlives it."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _what_failed(talk: str, job: Job) -> str:
    match = _ROOT_CAUSE.search(talk)
    if match is None:
        return f"torchrun failed:\n{talk[-2000:]}"
    rank, code = int(match["rank"]), int(match["code"])
    reason = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    log = newest_log(job.log_folder, int(match["local"]))
    lines = [] if log is None else log.read_text(errors="replace").splitlines()[-8:]
    shown = "\n".join(f"  {line}" for line in lines)
    return f"rank {rank} of {job.processes * job.nodes} {reason}. Its last lines ({log}):\n{shown}"


def newest_log(folder: Path, local_rank: int) -> Path | None:
    """torchrun makes FOLDER/<random>/attempt_N/<local rank>/stderr.log."""
    found = folder.glob(f"*/attempt_*/{local_rank}/stderr.log")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
