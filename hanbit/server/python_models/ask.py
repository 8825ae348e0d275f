"""What Python models ask of the server: other models' answers, loading and unloading, the log."""

import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from hanbit.server.errors import RequestError, as_request_error, invalid
from hanbit.server.request import InferRequest, InferResponse

_LEVELS = {"INFO": logging.INFO, "WARNING": logging.WARNING, "ERROR": logging.ERROR, "VERBOSE": logging.DEBUG}
_MOST_CHARACTERS = 10_000  # of a line of the log


@dataclass(frozen=True)
class Server:
    """`find`: a served model by name and version, with `infer`; `change`: loads and unloads, where clients may, too."""

    find: Callable[[str, str], Any]
    is_ready: Callable[[str, str], bool]
    change: Callable[..., Any]
    is_ending: Callable[[], bool]


async def responses_of(server: Server, request: InferRequest) -> AsyncGenerator[InferResponse | RequestError]:
    """As they come; an error is the last."""
    try:
        model = server.find(request.model, request.version)
        async for response in model.infer(request):
            yield response
    except Exception as problem:
        yield as_request_error(problem)


async def controlled(server: Server, verb: str, arguments: dict[str, Any]) -> Any:
    """Raises RequestError."""
    name = arguments.get("name", "")
    try:
        if verb == "is_ready":
            return server.is_ready(name, arguments.get("version", ""))
        if verb == "load":
            return await server.change(name, True, False)
        if verb == "unload":
            return await server.change(name, False, bool(arguments.get("with_members")))
    except Exception as problem:
        raise as_request_error(problem) from problem
    raise invalid(f"nobody knows how to {verb!r:.40}")


def write_log(model: str, level: str, message: str) -> None:
    """A model's line is one line, whatever it writes."""
    text = message[:_MOST_CHARACTERS].replace("\r", "\\r").replace("\n", "\\n")
    logging.getLogger(f"hanbit.models.{model}").log(_LEVELS.get(level, logging.INFO), "%s", text)
