"""One request on its way through an instance, and the responses that wait for whoever asked. Used on the event loop."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable

from hanbit.server.batching.queue import Waiting
from hanbit.server.errors import RequestError
from hanbit.server.request import InferRequest, InferResponse

MOST_RESPONSES = 16_384  # that wait for a reader
MOST_BYTES = 256 * 2**20


class Job(Waiting):
    """`send` and `fail` are the instance's; `next` the asker's. After the last response, or `leave`, nothing that the
    instance sends matters. `is_held`: responses wait for those of an earlier job (see `order.py`)."""

    __slots__ = ("_bytes", "_reader", "_responses", "is_held", "is_left", "is_over", "on_over", "request")

    def __init__(
        self, request: InferRequest, rows: int = 1, shapes: Hashable = None, level: int = 0, may_wait_ns: int = 0
    ) -> None:
        super().__init__(rows, shapes, level, may_wait_ns)
        self.request = request
        self.is_over = False  # the instance has said its last
        self.is_left = False  # nobody reads the responses
        self.is_held = False
        self.on_over: Callable[[Job], None] | None = None
        self._responses: deque[InferResponse | Exception] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._bytes = 0

    def send(self, response: InferResponse) -> None:
        """The last one ends the job."""
        if self.is_over:
            return
        self.request.moments.output_start = time.monotonic_ns()
        if not self.is_left:
            if len(self._responses) >= MOST_RESPONSES or self._bytes > MOST_BYTES:
                self.fail(RequestError("busy", "the responses are read more slowly than the model makes them"))
                return
            self._responses.append(response)
            self._bytes += _num_bytes(response)
        if response.is_last:
            self._end()
        self._wake()

    def fail(self, problem: Exception) -> None:
        """The error is the last response."""
        if not self.is_over:
            self._responses.append(problem)
            self._end()
            self._wake()

    def leave(self) -> None:
        """Nobody asks any more; the instance may still work on it."""
        self.is_left = True
        self._responses.clear()

    def release(self) -> None:
        self.is_held = False
        self._wake()

    async def next(self) -> InferResponse:
        """Raises what the job failed with."""
        while self.is_held or not self._responses:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        found = self._responses.popleft()
        if isinstance(found, Exception):
            raise found
        self._bytes -= _num_bytes(found)
        return found

    def _end(self) -> None:
        self.is_over = True
        if self.on_over is not None:
            self.on_over(self)

    def _wake(self) -> None:
        if self._reader is not None and not self.is_held and not self._reader.done():
            self._reader.set_result(None)


def _num_bytes(response: InferResponse) -> int:
    return sum(one.data.nbytes for one in response.outputs.values())
