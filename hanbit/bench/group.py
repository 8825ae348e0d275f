"""Runs jobs in a group of processes that know each other, and hands out each result as soon as it is there.

A whole table takes most of an hour; what was found until an interruption is not lost then.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from hanbit.common.errors import LaunchError

_LOOK_SECONDS = 0.5


def results_of(processes: int, module: str, jobs: Sequence[Any], folder: Path, *arguments: str) -> Iterator[Any]:
    """One for each job, in their order. `module` is started with the paths of the jobs and of the results, then the
    arguments, and calls `add_result` after each job; all jobs share one group: starting Python is what takes long.

    Raises LaunchError with what the group said, after the results that it had.
    """
    wanted, found, rest = folder / "jobs.json", folder / "results.jsonl", ""
    wanted.write_text(json.dumps(jobs))
    found.write_text("")
    with ThreadPoolExecutor(1) as pool, found.open() as written:
        group = pool.submit(_run, processes, module, str(wanted), str(found), *arguments)
        is_over = False
        while not is_over:
            is_over = bool(wait([group], timeout=_LOOK_SECONDS).done)
            *lines, rest = (rest + written.read()).split("\n")  # the last may still be half written
            yield from map(json.loads, lines)
    group.result()


def add_result(path: str, result: Any) -> None:
    """Of the job that was done; called by one process of the group."""
    with open(path, "a") as results:
        results.write(json.dumps(result) + "\n")


def _run(processes: int, module: str, *arguments: str) -> None:
    worker = ["-m", module, *arguments]
    command = [sys.executable, *worker]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command = [*launcher, "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *worker]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise LaunchError(f"the proof's group of {processes} process(es) failed:\n{done.stderr[-4000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
