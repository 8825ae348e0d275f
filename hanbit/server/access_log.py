"""The access log: a line of JSON for every request, once it is over.

No headers, queries or bodies are in it, so neither keys nor prompts are; a line is JSON, so nothing that a client sends
can look like another line.
"""

import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Any

import grpc
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanbit.common.errors import ConfigError
from hanbit.server.access import Keys

_LONGEST = 512  # characters of a path
_LEFT = 499  # nginx's word for a client that went away


class AccessLog:
    """`place`: a file that is continued, or "-" for standard error. Raises ConfigError."""

    def __init__(self, place: str, keys: Keys) -> None:
        self._keys = keys
        try:
            self._file: IO[str] = sys.stderr if place == "-" else open(place, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        except OSError as problem:
            raise ConfigError(f"--access-log {place} cannot be written: {problem.strerror}") from None

    def write(
        self, began: float, protocol: str, client: str, method: str, path: str, status: str, size: int, key: str | None
    ) -> None:
        """`began`: of time.perf_counter; `size`: bytes of the answer; `key`: the header that names it."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "protocol": protocol,
            "client": client,
            "key": self._keys.name_of(key),
            "method": method,
            "path": path[:_LONGEST],
            "status": status,
            "seconds": round(time.perf_counter() - began, 6),
            "bytes": size,
        }
        with suppress(OSError, ValueError):  # a full disk ends no request
            self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        if self._file is not sys.stderr:
            self._file.close()


class HttpLog:
    """Around an application: what is streamed is logged when it is over, or its client has gone."""

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, size = time.perf_counter(), _LEFT, 0

        async def sending(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            key = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), None)
            client = (scope["client"] or ("",))[0]
            self._log.write(began, "http", client, scope["method"], scope["path"], str(status), size, key)


class GrpcLog(grpc.aio.ServerInterceptor):
    """A call's status is its code's name; a stream is one line."""

    def __init__(self, log: AccessLog) -> None:
        self._log = log

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        metadata = dict(details.invocation_metadata or ())
        key = metadata.get("authorization")
        if handler.unary_unary is not None:
            return handler._replace(unary_unary=self._logged(handler.unary_unary, details.method, key))
        if handler.stream_stream is not None:
            return handler._replace(stream_stream=self._logged(handler.stream_stream, details.method, key))
        return handler

    def _logged(self, answer: Callable[[Any, Any], Awaitable[Any]], method: str, key: Any) -> Any:
        async def logged(request: Any, context: grpc.aio.ServicerContext) -> Any:
            began, status, size = time.perf_counter(), "CANCELLED", 0
            try:
                found = await answer(request, context)
                size = found.ByteSize() if hasattr(found, "ByteSize") else 0
                status = "OK"
                return found
            except grpc.aio.AbortError:
                status = getattr(context.code(), "name", str(context.code()))
                raise
            finally:
                key_text = key.decode("latin-1") if isinstance(key, bytes) else key
                self._log.write(began, "grpc", context.peer(), "POST", method, status, size, key_text)

        return logged
