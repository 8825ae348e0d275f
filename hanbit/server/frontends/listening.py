"""Work only while somebody listens: a client that leaves is noticed at once, also between two tokens."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")
_LARGE_BYTES = 64 * 1024


class ClientGone(Exception):
    """The connection was closed before the answer was complete."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result; raises ClientGone, the work cancelled, once the client has left. The body must be read.

    The work is done by the task that asks, which a second one interrupts: the usual answer costs no turn of the loop.
    """
    task = asyncio.current_task()
    assert task is not None
    is_over = is_gone = False
    gone: asyncio.Task[None] | None = None

    def left(watcher: asyncio.Task[None]) -> None:
        nonlocal is_gone
        if not watcher.cancelled() and not is_over:
            is_gone = True
            task.cancel()

    def watch() -> None:
        nonlocal gone
        gone = asyncio.create_task(_disconnect(receive))
        gone.add_done_callback(left)

    watching = asyncio.get_running_loop().call_soon(watch)  # never, if the work does not wait for anything
    try:
        return await work
    except asyncio.CancelledError:
        if is_gone and task.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        is_over = True
        watching.cancel()
        if gone is not None:
            gone.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class PartsResponse(Response):
    """A body in parts, of which large ones go out as they lie: nobody copies megabytes to put a line before them."""

    def __init__(self, parts: Sequence[bytes | memoryview], headers: Mapping[str, str]) -> None:
        self.status_code = 200
        self.background: BackgroundTask | None = None
        large = sum(len(part) > _LARGE_BYTES for part in parts)
        self._parts = parts if large else [b"".join(parts)]
        self.init_headers({**headers, "Content-Length": str(sum(map(len, parts)))})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for number, part in enumerate(self._parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(self._parts)})
        if self.background is not None:
            await self.background()


class EventStream(Response):
    """Server-sent events as they come. The iterator is closed however the stream ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str]) -> None:
        self.status_code = 200
        self.background: BackgroundTask | None = None
        self._events = events
        # proxies would collect what should be seen at once
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send(send))
        except ClientGone:
            pass
        finally:
            await self._events.aclose()
            if self.background is not None:
                await self.background()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for text in self._events:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
