"""One model of embeddings that serves many callers at once: asyncio outside, one thread with the model inside.

Texts of all callers share batches, a caller's in turn with others', so that a list of thousands holds up nobody's one.
"""

import asyncio
import atexit
import threading
from collections import deque
from collections.abc import Sequence as Items
from dataclasses import replace

import torch

from hanbit.common.errors import EngineBusy, EngineClosed
from hanbit.engine.embedder import Embedder
from hanbit.engine.service import Counts

_SECONDS_FOR_A_STEP = 60.0  # what the end of the process waits for, at most


class EmbeddingService:
    """On a thread of its own, until `close` or the end of the process. `max_waiting` requests may wait."""

    def __init__(self, embedder: Embedder, *, max_waiting: int = 256) -> None:
        self.embedder, self.max_waiting = embedder, max_waiting
        self._changed = threading.Condition()  # guards all below
        self._requests: deque[_Request] = deque()  # those with texts that nobody has begun
        self._open = 0
        self._totals = Counts()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="hanbit-embeddings", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def num_open(self) -> int:
        """Requests that are being answered or wait."""
        return self._open

    def counts(self) -> Counts:
        """Of requests: running ones have texts that are begun. Tokens count when they are asked for."""
        with self._changed:
            waiting = sum(request.num_begun == 0 and not request.is_over for request in self._requests)
            return replace(self._totals, running=self._open - waiting, waiting=waiting)

    async def vectors(self, texts: Items[list[int]]) -> torch.Tensor:
        """As `Embedder.vectors`. Raises EngineBusy if too many wait, GenerationError. Cancelling the task that waits
        ends the work on what is not begun."""
        request = _Request(texts, asyncio.get_running_loop())
        with self._changed:
            if self._is_closed:
                raise EngineClosed()
            if self._open > self.max_waiting:
                raise EngineBusy(f"{self._open} requests wait for the engine already. Come again later")
            self._open += 1
            self._add(prompt_tokens=sum(map(len, texts)))
            self._requests.append(request)
            self._changed.notify()
        how = "cancelled"
        try:
            found = await request.answer
            how = "finished"
            return found
        except Exception:
            how = "failed"
            raise
        finally:
            request.is_over = True
            with self._changed:
                self._open -= 1
                self._add(**{how: 1})

    def close(self) -> None:
        """End the thread; whoever waits gets GenerationError. Waits for the batch being computed."""
        self._end(None)
        atexit.unregister(self._end)

    def _end(self, patience_seconds: float | None = _SECONDS_FOR_A_STEP) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(patience_seconds)

    def _add(self, **amounts: int) -> None:
        self._totals = replace(self._totals, **{key: getattr(self._totals, key) + n for key, n in amounts.items()})

    def _run(self) -> None:
        while taken := self._taken():
            self._compute(taken)
            for request in dict.fromkeys(request for request, _ in taken):
                request.end_if_whole()
        with self._changed:
            left = list(self._requests)
        for request in left:
            request.fail(EngineClosed())

    def _compute(self, taken: "_Taken") -> None:
        """All at once; if that fails, each alone, for the others are not at fault."""
        try:
            found = self.embedder.vectors([request.texts[place] for request, place in taken])
        except Exception as problem:
            if len(taken) == 1:
                taken[0][0].fail(problem)
                return
            for one in taken:
                self._compute([one])
            return
        for (request, place), vector in zip(taken, found, strict=True):
            request.found[place] = vector

    def _taken(self) -> "_Taken":
        """The next texts, one of each request in turn, as many as are computed at once; none once closed."""
        with self._changed:
            taken: _Taken = []
            while not taken:
                self._changed.wait_for(lambda: self._is_closed or self._requests)
                if self._is_closed:
                    return []
                self._take(taken)
            return taken

    def _take(self, taken: "_Taken") -> None:
        room = self.embedder.max_num_batched_tokens
        while self._requests and (not taken or len(self._requests[0].next_text) <= room):
            request = self._requests.popleft()
            if request.is_over:
                continue
            room -= len(request.next_text)
            taken.append((request, request.num_begun))
            request.num_begun += 1
            if request.num_begun < len(request.texts):
                self._requests.append(request)


class _Request:
    """One caller's texts, and what is known of them. `answer` is for the caller's event loop."""

    def __init__(self, texts: Items[list[int]], loop: asyncio.AbstractEventLoop) -> None:
        assert texts, "a request has texts"
        self.texts, self._loop = texts, loop
        self.answer: asyncio.Future[torch.Tensor] = loop.create_future()
        self.num_begun = 0
        self.is_over = False  # nobody waits, or it has failed
        self.found: dict[int, torch.Tensor] = {}

    @property
    def next_text(self) -> list[int]:
        return self.texts[self.num_begun]

    def fail(self, problem: Exception) -> None:
        self.is_over = True
        self._tell(problem)

    def end_if_whole(self) -> None:
        if not self.is_over and len(self.found) == len(self.texts):
            self._tell(torch.stack([self.found[place] for place in range(len(self.texts))]))

    def _tell(self, event: torch.Tensor | Exception) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, event)
        except RuntimeError:  # the loop has ended, and its callers with it
            self.is_over = True

    def _settle(self, event: torch.Tensor | Exception) -> None:
        if self.answer.done():
            return
        if isinstance(event, Exception):
            self.answer.set_exception(event)
        else:
            self.answer.set_result(event)


_Taken = list[tuple[_Request, int]]  # requests, and which of their texts
