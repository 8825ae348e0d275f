"""What a Python model asks of the server around it: other models' answers, their loading, the log.

A worker process has one host for all its life. Inside the server each thread that executes models has its own, and
threads that a model starts get the newest.
"""

import threading
from collections.abc import Iterator
from typing import Any, Protocol

from hanbit.server.python_models.api_errors import TritonModelException


class Host(Protocol):
    def infer(self, request: Any) -> Iterator[Any]:
        """InferenceResponses of another model, as they come; blocks."""

    async def infer_async(self, request: Any, is_whole: bool) -> Iterator[Any]:
        """The same for a coroutine; `is_whole`: all of them are there, and the iterator does not block."""

    def control(self, verb: str, **arguments: Any) -> Any:
        """load, unload, is_ready. Raises TritonModelException."""

    def log(self, level: str, message: str) -> None: ...


_newest: Host | None = None
_own = threading.local()


def set_host(host: Host) -> None:
    """For this thread, and for threads that have none."""
    global _newest
    _newest = _own.host = host


def host() -> Host:
    found: Host | None = getattr(_own, "host", _newest)
    if found is None:
        raise TritonModelException("this is possible only inside a server")
    return found
