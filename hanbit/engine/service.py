"""One model that answers many callers at once, for a server: asyncio outside, one thread with the batch inside.

The thread sleeps while there is nothing to answer. Pieces cross to the callers' event loops, one wake-up a step and
loop; what callers want of the thread (join, leave, end) crosses back under one lock.
"""

import asyncio
import atexit
import logging
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from hanbit.common.errors import EngineBusy, EngineClosed, EngineFailed, GenerationError
from hanbit.engine.batch import CacheCounts, Event
from hanbit.engine.drafts import SpeculationCounts
from hanbit.engine.llm import LLM
from hanbit.engine.output import Piece
from hanbit.engine.prompts import Prompt
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from hanbit.engine.sessions import Name, Sessions

log = logging.getLogger(__name__)

# Tokens of a prompt read between two steps of running answers: what they wait is near a step of their own, and the
# matrices are still read for enough tokens to be worth it.
_PATIENCE = 128
_MOST_COMPILING = 16  # forms of answers, the one that is being compiled included
_SECONDS_FOR_A_STEP = 60.0  # what the end of the process waits for, at most


@dataclass(frozen=True)
class Counts:
    """`running` have blocks of the cache, `waiting` will get some; the others are totals since the start. Prompt tokens
    count when an answer is asked for."""

    running: int = 0
    waiting: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True)
class Turn:
    """Of a session, by the name that its caller gave it: its first, which begins it, and its last, which ends it."""

    session: Name
    is_first: bool = False
    is_last: bool = False


class Service:
    """One model answering many callers at once, on a thread of its own, until `close` or the end of the process.

    `max_sequences` are answered at the same time, `max_waiting` more may wait.
    """

    def __init__(self, llm: LLM, *, max_sequences: int = 8, max_waiting: int = 256) -> None:
        self.llm = llm
        self.max_sequences, self.max_waiting = max_sequences, max_waiting
        self._batch = llm.batch(max_sequences, _PATIENCE)
        self._changed = threading.Condition()  # guards all below
        self._callers: dict[Sequence, _Caller] = {}
        self._arrived: list[Sequence] = []
        self._left: list[Sequence] = []
        self._given_back: list[Sequence] = []  # last turns of sessions that are over
        self.sessions = Sessions(llm.sessions.most, llm.sessions.seconds, self._let_go)
        self._is_closed = False
        self._compiler = ThreadPoolExecutor(1, "hanbit-grammars")
        self._num_compiling = 0
        self._totals = Counts()
        self._thread = threading.Thread(target=self._run, name="hanbit-engine", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        priority: int = 0,
        timeout_seconds: float | None = None,
        turn: Turn | None = None,
    ) -> "Answer":
        """One answer, piece by piece, for the running event loop.

        Smaller priorities come first. Raises GenerationError at once if the prompt cannot be served, EngineBusy if too
        many wait; an answer that is not whole after `timeout_seconds` raises DeadlinePassed. Closing the iterator,
        dropping it, or cancelling the task that waits for it ends the work within two steps. `turn`: of which session
        this is one, if of any; one that does not end leaves the session as it was, or ends it if it is the last.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        if turn is None:
            sequence = self.llm.sequence(
                prompt, params, adapter=adapter, priority=priority, deadline=deadline, seats=self.max_sequences
            )
        else:
            sequence = self.llm.turn(
                self.sessions, turn.session, prompt, params, adapter=adapter, is_first=turn.is_first,
                is_last=turn.is_last, priority=priority, deadline=deadline, seats=self.max_sequences,
            )  # fmt: skip
        caller = _Caller(asyncio.get_running_loop(), asyncio.Queue())
        try:
            self._let_in(sequence, caller)
        except GenerationError:
            if turn is not None and sequence.session is not None:
                self.sessions.unbegun(sequence.session, turn.is_first)
            raise
        if sequence.session is not None:
            self.sessions.begun(sequence.session)
        return Answer(self, sequence, caller.events)

    def _let_in(self, sequence: Sequence, caller: "_Caller") -> None:
        with self._changed:
            if self._is_closed:
                raise EngineClosed()
            if len(self._callers) >= self.max_sequences + self.max_waiting:
                raise EngineBusy(f"{self.waiting} prompts wait for the engine already. Come again later")
            self._callers[sequence] = caller
            self._arrived.append(sequence)
            self._add(prompt_tokens=len(sequence.asked))
            self._changed.notify()

    def _let_go(self, sequence: Sequence) -> None:
        with self._changed:
            self._given_back.append(sequence)
            self._changed.notify()

    async def prepare(self, params: SamplingParams) -> None:
        """Compile the form that an answer is asked to have, away from the event loop: `stream` finds it then.

        One at a time. Raises GrammarError, and EngineBusy if too many wait.
        """
        form = params.structured_outputs
        if form is None or self.llm.grammars.has(form):
            return
        if self._num_compiling >= _MOST_COMPILING:
            raise EngineBusy(f"{self._num_compiling} forms of answers wait to be compiled already. Come again later")
        self._num_compiling += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._compiler, self.llm.grammars.start, form)
        finally:
            self._num_compiling -= 1

    @property
    def running(self) -> int:
        return min(self._batch.num_running, len(self._callers))

    @property
    def waiting(self) -> int:
        return len(self._callers) - self.running

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def counts(self) -> Counts:
        with self._changed:
            running = self.running
            return replace(self._totals, running=running, waiting=len(self._callers) - running)

    @property
    def cache_counts(self) -> CacheCounts:
        """As they were after the last step."""
        return self._batch.cache_counts

    @property
    def speculation_counts(self) -> SpeculationCounts:
        """As they were after the last step."""
        return self._batch.speculation_counts

    def close(self) -> None:
        """End the thread; whoever waits for an answer gets GenerationError. Waits for the step being made."""
        self._end(None)
        atexit.unregister(self._end)

    def _end(self, patience_seconds: float | None = _SECONDS_FOR_A_STEP) -> None:
        """Also called when the process ends with a service open: a thread that comes back from torch while the
        interpreter is taken down aborts the process. The callers' loops are closed by then, which `_deliver` minds."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._compiler.shutdown(wait=False, cancel_futures=True)
        self._thread.join(patience_seconds)

    def cancel(self, sequence: Sequence) -> None:
        """Nobody waits for it any more; nothing if it has ended."""
        with self._changed:
            if self._callers.pop(sequence, None) is not None:
                self._left.append(sequence)
                self._add(cancelled=1)
                self._changed.notify()

    def _run(self) -> None:
        try:
            while True:
                try:
                    if not self._has_work():
                        return
                    self._deliver(self._batch.step())
                except Exception as problem:
                    self._begin_anew(problem)
        finally:
            with self._changed:
                self._is_closed = True
                sequences = list(self._callers)
            self._deliver([(sequence, EngineClosed()) for sequence in sequences])

    def _begin_anew(self, problem: Exception) -> None:
        """What nobody foresaw, between the answers of a step: nobody knows where they are now, so all of them fail and
        later ones find a batch that is empty."""
        log.error("the engine failed and begins anew: %s", problem, exc_info=problem)
        with self._changed:
            sequences, self._arrived, self._left = list(self._callers), [], []
        failed = f"the engine failed between the answers of a step: {type(problem).__name__}: {problem}"
        self._deliver([(sequence, EngineFailed(failed)) for sequence in sequences])
        self._batch = self._batch.anew()

    def _has_work(self) -> bool:
        """Sleep until there is something to do; False once closed. Lets those join and leave who asked for it."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or self._arrived or self._left or self._given_back or not self._batch.is_empty
            )
            over, self._given_back = self._given_back, []
            arrived, self._arrived = self._arrived, []
            left, self._left = self._left, []
        for sequence in arrived:
            self._batch.add(sequence)
        for sequence in left:
            self._batch.remove(sequence)
        for sequence in over:
            self._batch.let_go(sequence)
        return not self._is_closed

    def _deliver(self, events: list[Event]) -> None:
        """Hand each event to its caller's loop, unless it was cancelled during the step."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Sequence, _Caller, Piece | GenerationError]]] = {}
        with self._changed:
            for sequence, event in events:
                caller = self._callers.get(sequence)
                if caller is None:
                    continue
                by_loop.setdefault(caller.loop, []).append((sequence, caller, event))
                self._count(event)
                if isinstance(event, GenerationError) or event.finish_reason is not None:
                    del self._callers[sequence]
        for loop, handed in by_loop.items():
            try:
                loop.call_soon_threadsafe(_hand_over, [(caller.events, event) for _, caller, event in handed])
            except RuntimeError:  # the loop has ended, and its callers with it
                for sequence, _, _ in handed:
                    self.cancel(sequence)

    def _count(self, event: Piece | GenerationError) -> None:
        if isinstance(event, GenerationError):
            self._add(failed=1)
        else:
            self._add(generated_tokens=len(event.token_ids), finished=int(event.finish_reason is not None))

    def _add(self, **amounts: int) -> None:
        self._totals = replace(self._totals, **{key: getattr(self._totals, key) + n for key, n in amounts.items()})


@dataclass(frozen=True)
class _Caller:
    """Where an answer's events go. Not the answer itself: one that nobody holds must go away."""

    loop: asyncio.AbstractEventLoop
    events: "asyncio.Queue[Piece | GenerationError]"


class Answer(AsyncIterator[Piece]):
    """The pieces of one answer as they come; the last has a finish reason. Raises GenerationError if it fails."""

    def __init__(self, service: Service, sequence: Sequence, events: "asyncio.Queue[Piece | GenerationError]") -> None:
        self._service, self._sequence, self._events = service, sequence, events
        self._has_ended = False

    async def __anext__(self) -> Piece:
        if self._has_ended:
            raise StopAsyncIteration
        try:
            event = await self._events.get()
        except BaseException:  # the waiting task is cancelled
            await self.aclose()
            raise
        if isinstance(event, GenerationError):
            self._has_ended = True
            raise event
        self._has_ended = event.finish_reason is not None
        return event

    async def aclose(self) -> None:
        """Ends the work on this answer; also what happens when nobody holds it any more."""
        self._has_ended = True
        self._service.cancel(self._sequence)

    def __del__(self) -> None:
        self._service.cancel(self._sequence)


def _hand_over(pairs: list[tuple["asyncio.Queue[Piece | GenerationError]", Piece | GenerationError]]) -> None:
    """Runs in the callers' event loop."""
    for events, event in pairs:
        events.put_nowait(event)
