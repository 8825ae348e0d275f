"""Whose work goes on: counts the requests being answered, and lets no new one in once the server is to end."""

import asyncio
import contextlib
from collections.abc import Iterator

from hanbit.server.errors import RequestError


class Admission:
    def __init__(self) -> None:
        self.is_draining = False
        self.num_running = 0
        self._changed = asyncio.Event()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Around the work on a request. Raises RequestError("unavailable") while draining."""
        if self.is_draining:
            raise RequestError("unavailable", "the server is shutting down")
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1
            self._changed.set()

    async def drain(self, patience_seconds: float) -> int:
        """Let nothing in any more; wait for what is being answered. How many were left when the patience ended."""
        self.is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                while self.num_running:
                    self._changed.clear()
                    await self._changed.wait()
        return self.num_running
