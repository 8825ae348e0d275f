"""Talks whose turns continue each other: the next one begins where the last answer ended, without its text. No torch.

FasterTransformer's interactive generation, Triton's correlation id. A session keeps the tokens of all its turns, and
the batch what it computed of them (room.py), as long as nobody else needs the room; what was given up is read anew
from the tokens. A turn that does not come to its end leaves its session as it was before; the last one ends it in any
case. One that is refused, be it the first or the last, has changed nothing.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hanbit.common.errors import EngineBusy, GenerationError

if TYPE_CHECKING:
    from hanbit.engine.sequence import Sequence as Answer

Name = str | int


@dataclass(eq=False)
class Session:
    """Made by Sessions. `tokens`: of all turns that have ended, each prompt and its answer; `last`: the turn whose keys
    and values may still be in the cache; `turn`: the one that is being answered."""

    name: Name
    adapter: str | None = None
    tokens: Sequence[int] = ()
    last: "Answer | None" = None
    turn: "Answer | None" = None
    is_busy: bool = False
    is_ended: bool = False
    ends_after_turn: bool = False
    clock: Callable[[], float] = time.monotonic
    used: float = 0.0  # on the clock, when a turn ended
    former: "Session | None" = None  # of the same name; over when this one's first turn is let in

    def begin(self, turn: "Answer") -> None:
        """It is about to be answered; `is_busy` since it was asked for."""
        turn.session, turn.behind, self.turn = self, self.last, turn

    def finish(self, turn: "Answer") -> None:
        """The turn has come to its end: the next one continues it."""
        assert turn is self.turn
        self.tokens, self.last = tuple(turn.tokens), turn
        self._rest()

    def drop(self, turn: "Answer") -> None:
        """The turn has failed or was left."""
        if turn is self.turn:
            self.last = None  # what is in the cache may be the turn's that never was
            self._rest()

    def _rest(self) -> None:
        self.is_ended |= self.ends_after_turn
        self.turn, self.used, self.is_busy = None, self.clock(), False


class Sessions:
    """`most` at a time; one is over `seconds` after its last turn. Safe between threads.

    What is over is handed to `let_go`, which frees what the cache has of it; called with the lock held.
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        let_go: Callable[["Answer"], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.seconds, self._let_go, self._clock = most, seconds, let_go, clock
        self._open: OrderedDict[Name, Session] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            self._expire()
            return len(self._open)

    def start(self, name: Name, adapter: str | None = None) -> Session:
        """A new one, with its first turn about to begin: then `begun` or `unbegun`. It stands in the place of one of
        that name, which is over with `begun`. EngineBusy if there are too many, GenerationError if the other one's turn
        is being answered."""
        with self._lock:
            self._expire()
            former = self._open.get(name)
            if former is not None:
                _check_idle(former)
            elif len(self._open) >= self.most:
                raise EngineBusy(
                    f"{len(self._open)} sessions are open, max_sessions={self.most}. End one, or come again when one "
                    f"has been idle for {self.seconds:g} s"
                )
            self._open[name] = session = Session(name, adapter, is_busy=True, clock=self._clock, former=former)
            return session

    def resume(self, name: Name, adapter: str | None = None) -> Session:
        """One that is open, with its next turn about to begin. Raises GenerationError."""
        with self._lock:
            self._expire()
            session = self._open.get(name)
            if session is None:
                raise GenerationError(
                    f"session {name!r:.80} is not open: it was never begun, has been ended, or was idle for "
                    f"{self.seconds:g} s. Begin it, with the text so far"
                )
            _check_idle(session)
            if session.adapter != adapter:
                raise GenerationError(
                    f"session {name!r:.80} was begun with adapter={session.adapter!r:.80}, and this turn asks for "
                    f"{adapter!r:.80}: what was computed differs. Begin another one"
                )
            session.is_busy = True
            return session

    def begun(self, session: Session) -> None:
        """The turn that was about to begin was let in."""
        with self._lock:
            former, session.former = session.former, None
            if former is not None:
                self._end(former)

    def unbegun(self, session: Session, is_new: bool) -> None:
        """The turn that was about to begin was refused; a session without any is no session, and one of its name is
        open as before."""
        with self._lock:
            session.is_busy = session.ends_after_turn = False
            session.turn = None
            if not is_new:
                return
            former = None if session.is_ended else session.former
            session.former = None
            self._end(session)
            if former is not None:
                self._open[former.name] = former

    def end(self, name: Name) -> None:
        """A turn that is being answered goes on to its end. Raises GenerationError if it is not open."""
        with self._lock:
            self._expire()
            if name not in self._open:
                raise GenerationError(f"session {name!r:.80} is not open: nothing is there to be ended")
            self._end(self._open[name])

    def end_if_open(self, name: Name) -> None:
        """As `end`; nothing if it is over already, by its time-out too."""
        with self._lock:
            self._expire()
            if name in self._open:
                self._end(self._open[name])

    def _expire(self) -> None:
        now = self._clock()
        for session in list(self._open.values()):
            if session.is_ended or (not session.is_busy and now - session.used >= self.seconds):
                self._end(session)

    def _end(self, session: Session) -> None:
        if self._open.get(session.name) is session:
            del self._open[session.name]
        session.is_ended = True
        if session.former is not None:
            self._end(session.former)
        if session.last is not None and not session.is_busy:
            self._let_go(session.last)


def _check_idle(session: Session) -> None:
    if session.is_busy:
        raise GenerationError(
            f"session {session.name!r:.80} is being answered: one turn at a time. Wait for its end, or cancel it"
        )
