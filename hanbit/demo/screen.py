"""What the journey shows: each stage and its command, one line that moves while it works, a table at the end."""

import shlex
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Sequence
from typing import TextIO

from hanbit.common.units import readable_seconds
from hanbit.demo.stage import Outcome, Stage

_REDRAW_SECONDS = 0.1


class Screen:
    """On a terminal the moving line is redrawn in place; elsewhere only its end is printed."""

    def __init__(self, stages: int, out: TextIO = sys.stdout) -> None:
        self._stages, self._out = stages, out
        self._number = 0
        self._began = self._drawn = 0.0
        self._is_live = out.isatty()
        self._lock = threading.Lock()  # lines come from the thread that reads the child

    def begin(self, stage: Stage) -> None:
        self._number += 1
        self._began = time.monotonic()
        self._print(f"\n[{self._number}/{self._stages}] {stage.title}")
        self._print(f"$ {shlex.join(stage.command)}")

    def show(self, line: str) -> None:
        """The newest line of the command at work."""
        now = time.monotonic()
        if not self._is_live or now - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = now
        with self._lock:
            seconds = readable_seconds(now - self._began)
            self._out.write("\r\033[K" + fitted(f"  {seconds}  {line}", shutil.get_terminal_size().columns - 1))
            self._out.flush()

    def end(self, outcome: Outcome) -> None:
        with self._lock:
            if self._is_live:
                self._out.write("\r\033[K")
        self._print(f"  {readable_seconds(outcome.seconds)}  {outcome.good}")

    def table(self, titles: tuple[str, str, str], outcomes: Sequence[Outcome], total_seconds: float) -> None:
        rows = [titles, *((one.stage.title, readable_seconds(one.seconds), one.good) for one in outcomes)]
        first, second = (max(width(row[column]) for row in rows) for column in (0, 1))
        self._print("")
        for row in rows:
            self._print(f"{padded(row[0], first)}  {padded(row[1], second)}  {row[2]}".rstrip())
        self._print(f"{padded('', first)}  {readable_seconds(total_seconds)}")

    def say(self, line: str) -> None:
        self._print(line)

    def _print(self, line: str) -> None:
        self._out.write(line + "\n")
        self._out.flush()


def width(text: str) -> int:
    """Columns on a terminal: a Korean syllable takes two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def padded(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def fitted(text: str, columns: int) -> str:
    """The beginning of `text` that a line of so many columns holds."""
    end, used = 0, 0
    while end < len(text) and used + width(text[end]) <= columns:
        used += width(text[end])
        end += 1
    return text[:end]
