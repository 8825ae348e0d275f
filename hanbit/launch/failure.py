"""Which rank failed first, and why: what a failing rank notes, and what the launcher makes of it.

When one rank fails, its peers lose their connections and fail some milliseconds later; torchrun sees all of them at
once and knows time in whole seconds only. A rank of ours therefore notes its failure in the file that torchrun has
named for it (TORCHELASTIC_ERROR_FILE; plain torchrun then shows the note in its own table), in nanoseconds.
"""

import contextlib
import json
import os
import re
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from hanbit.common.atomic import write_json

# One entry of torchrun's table (torch/distributed/elastic/multiprocessing/errors)
_ENTRY = re.compile(
    r"rank\s*:\s*(?P<rank>\d+)\s*\(local_rank:\s*(?P<local>\d+)\)\s*"
    r"exitcode\s*:\s*(?P<code>-?\d+).*?\n\s*error_file:\s*(?P<file>[^\n]*)"
)
# Sent by torchrun to the others, or by a rank to itself when its peers are lost: no cause of their own
_CONSEQUENCES = {-signal.SIGTERM, -signal.SIGABRT}


@dataclass(frozen=True)
class Note:
    message: str
    nanoseconds: int


@dataclass(frozen=True)
class Failure:
    """`code`: exit code, negative for the signal that ended it. `is_told`: its words have been on the terminal."""

    rank: int
    local_rank: int
    code: int
    note: Note | None = None
    is_told: bool = False

    @property
    def reason(self) -> str:
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


def note_failure(message: str) -> None:
    """Of this rank, for torchrun and the launcher; nothing happens outside of torchrun or when the disk refuses."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        now = time.time_ns()
        with contextlib.suppress(OSError):
            write_json(Path(path), {"message": message, "timestamp": now // 10**9, "nanoseconds": now})


def first_failure(talk: str) -> Failure | None:
    """The cause among the failed ranks of torchrun's table; None where torchrun shows no table.

    A rank that was killed or crashed comes first, for it can note nothing; then the earliest note, of the lowest rank
    where several say the same (all ranks find the same fault in a recipe, and torchrun ends those that are still about
    to say so). What is left is torchrun's own choice, which stands last in its table.
    """
    failures = [_read(entry) for entry in _ENTRY.finditer(talk)]
    cause = _killed(failures) or _earliest(failures) or (failures[-1] if failures else None)
    if cause is None:
        return None
    on_terminal = [failure for failure in failures if failure.local_rank == 0]
    is_repeated = cause.note is not None and any(_says(failure, cause.note.message) for failure in on_terminal)
    return replace(cause, is_told=cause in on_terminal or is_repeated)


def _killed(failures: list[Failure]) -> Failure | None:
    return next((failure for failure in failures if failure.code < 0 and failure.code not in _CONSEQUENCES), None)


def _earliest(failures: list[Failure]) -> Failure | None:
    noted = [(failure.note.nanoseconds, failure.note.message) for failure in failures if failure.note is not None]
    if not noted:
        return None
    alike = [failure for failure in failures if _says(failure, min(noted)[1])]
    return min(alike, key=lambda failure: (failure.code < 0, failure.rank))


def _says(failure: Failure, message: str) -> bool:
    return failure.note is not None and failure.note.message == message


def _read(entry: re.Match[str]) -> Failure:
    note = None
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = json.loads(Path(entry["file"].strip()).read_text(encoding="utf-8"))
        note = Note(told["message"], int(told["nanoseconds"]))
    return Failure(int(entry["rank"]), int(entry["local"]), int(entry["code"]), note)
