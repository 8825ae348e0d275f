"""Which rank failed first, and why: what a failing rank notes, and what the launcher makes of it.

When one rank fails, its peers lose their connections and fail some milliseconds later; torchrun sees all of them at
once, knows time in whole seconds only, and ends those that are still about to leave. A rank of ours therefore notes its
failure in the file that torchrun has named for it (TORCHELASTIC_ERROR_FILE; plain torchrun shows the note in its own
table), with the time in nanoseconds and the exit code that it is about to leave with.
"""

import contextlib
import json
import os
import re
import signal
import time
from dataclasses import dataclass
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
    exit_code: int
    nanoseconds: int


@dataclass(frozen=True)
class Failure:
    """`code`: exit code, negative for the signal that ended it."""

    rank: int
    local_rank: int
    code: int
    note: Note | None = None

    @property
    def reason(self) -> str:
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


def note_failure(message: str, exit_code: int) -> None:
    """Of this rank, for torchrun and the launcher; nothing happens outside of torchrun or when the disk refuses."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        now = time.time_ns()
        note = {"message": message, "timestamp": now // 10**9, "nanoseconds": now, "exit_code": exit_code}
        with contextlib.suppress(OSError):
            write_json(Path(path), note)


def first_failure(talk: str) -> Failure | None:
    """The cause among the failed ranks of torchrun's table; None where torchrun shows no table.

    A rank that was killed or crashed comes first, for it can note nothing; then the earliest note, of the lowest rank
    where several say the same, as all do of a faulty recipe. What is left is torchrun's own choice, which stands last
    in its table.
    """
    failures = [_read(entry) for entry in _ENTRY.finditer(talk)]
    return _killed(failures) or _earliest(failures) or (failures[-1] if failures else None)


def _killed(failures: list[Failure]) -> Failure | None:
    return next((failure for failure in failures if failure.code < 0 and failure.code not in _CONSEQUENCES), None)


def _earliest(failures: list[Failure]) -> Failure | None:
    notes = [failure.note for failure in failures if failure.note is not None]
    if not notes:
        return None
    message = min(notes, key=lambda note: note.nanoseconds).message
    alike = [failure for failure in failures if failure.note is not None and failure.note.message == message]
    return min(alike, key=lambda failure: failure.rank)


def _read(entry: re.Match[str]) -> Failure:
    """A rank that torchrun ended while it was leaving would have left with the code of its note."""
    note, code = _note_in(Path(entry["file"].strip())), int(entry["code"])
    if note is not None and code in _CONSEQUENCES:
        code = note.exit_code
    return Failure(int(entry["rank"]), int(entry["local"]), code, note)


def _note_in(path: Path) -> Note | None:
    """None where there is none, or none of ours."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(path.read_text(encoding="utf-8"))
        return Note(str(told["message"]), int(told["exit_code"]), int(told["nanoseconds"]))
    return None
