"""End an answer exactly before a stop text, however the text was cut into pieces. No torch."""

import copy
from collections.abc import Sequence


class StopText:
    """One answer's text on its way out: `push` each piece, `finish` once, unless `is_stopped`.

    Nothing is given out that may still turn out to be the beginning of a stop text. Of several stops the one that is
    complete first ends the answer, which makes the result independent of how the text was cut into pieces.

    `first`: so many pieces are said as they are; a stop counts when it begins behind them.
    """

    def __init__(self, stops: Sequence[str], first: int = 0) -> None:
        self._stops = tuple(stops)
        self._first = first if stops else 0
        self._held = ""
        self.is_stopped = False

    def copy(self) -> "StopText":
        """Where this one is now; they go on apart."""
        return copy.copy(self)

    def push(self, piece: str) -> str:
        """The text that is now safe to say; nothing more after a stop."""
        if self._first > 0:
            self._first -= 1
            return piece
        if not self._stops or self.is_stopped:
            return "" if self.is_stopped else piece
        self._held += piece
        start = self._first_stop()
        if start is None:
            start = len(self._held) - self._possible_beginning()
        else:
            self.is_stopped = True
        said, self._held = self._held[:start], "" if self.is_stopped else self._held[start:]
        return said

    def finish(self) -> str:
        """What was held back and proved to be no stop."""
        said, self._held = self._held, ""
        return said

    def _first_stop(self) -> int | None:
        """Where the stop that is complete first begins; the longest of those that are complete at once."""
        found = []
        for stop in self._stops:
            start = self._held.find(stop)
            if start >= 0:
                found.append((start + len(stop), start))
        return min(found)[1] if found else None

    def _possible_beginning(self) -> int:
        """Length of the longest end of what is held that begins a stop."""
        return max(_overlap(self._held, stop) for stop in self._stops)


def _overlap(text: str, stop: str) -> int:
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
