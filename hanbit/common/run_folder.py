"""The run folder: every path in it, and the lock that keeps two runs apart.

runs/<name>/config.resolved.yaml  env.json  metrics.jsonl  checkpoints/  logs/  tb/  trace/  report.html  hanbit.json,
and model/ or, of a tuned one, adapter/
"""

import fcntl
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hanbit.common.errors import RunFolderError


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.resolved.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tb"

    @property
    def trackers(self) -> Path:
        """The run's ids on dashboards."""
        return self.path / "trackers.json"

    @property
    def trace(self) -> Path:
        return self.path / "trace"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def log_of(self, rank: int) -> Path:
        return self.path / "logs" / f"rank_{rank}.log"


def lock_run_folder(folder: RunFolder) -> IO[str]:
    """Take the folder for this process until it ends; keep the returned file open.

    The kernel drops the lock when the process dies, so a killed run leaves nothing to clean up.
    Raises RunFolderError with the holder's host, process and start time.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    file = open(folder.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held open for the run's life
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise RunFolderError(
            f"{folder.path} is in use by another run ({holder}). Wait for it, stop it, or choose another name=..."
        ) from None
    file.seek(0)
    file.truncate()
    owner = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    file.write(json.dumps(owner))
    file.flush()
    return file
