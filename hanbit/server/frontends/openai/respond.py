"""Answers as one JSON object or as a stream of chunks; what differs between chat and completions is a Shape."""

import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hanbit.common.errors import EngineClosed, GenerationError
from hanbit.engine.output import Piece
from hanbit.server.errors import RequestError
from hanbit.server.frontends.listening import EventStream, unless_gone
from hanbit.server.frontends.openai.answers import Answers
from hanbit.server.frontends.openai.errors import as_refusal
from hanbit.server.frontends.openai.requests import Answering

_DONE = "data: [DONE]\n\n"


class Shape(Protocol):
    prefix: str  # of the answer's id
    object: str
    chunk_object: str

    def opening(self, choice: int) -> dict[str, Any] | None:
        """What a stream says of a choice before its first token."""

    def step(self, choice: int, piece: Piece) -> dict[str, Any] | None:
        """A piece as a choice of a chunk; None where it says nothing."""

    def whole(self, choice: int, pieces: Sequence[Piece]) -> dict[str, Any]: ...


async def respond(request: Request, asked: Answering, answers: Answers, shape: Shape) -> Response:
    """Raises ClientGone if nobody waits any more; the work has ended then."""
    head = {"id": f"{shape.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
    if asked.stream:
        chunks = _chunks(asked, answers, shape, {**head, "object": shape.chunk_object})
        return EventStream(chunks)
    try:
        pieces = await unless_gone(request.receive, answers.given())
    except EngineClosed:
        raise
    except GenerationError as problem:
        raise RequestError("internal", str(problem)) from None
    finally:
        await answers.close()
    choices = [shape.whole(choice, one) for choice, one in enumerate(pieces)]
    return JSONResponse({**head, "object": shape.object, "choices": choices, "usage": answers.usage()})


async def _chunks(asked: Answering, answers: Answers, shape: Shape, head: dict[str, Any]) -> AsyncGenerator[str]:
    """A failure after the status has been sent is told as an event."""
    options = asked.stream_options
    with_usage = options is not None and options.include_usage
    if with_usage:
        head["usage"] = None
    try:
        for choice in range(len(answers)):
            if (opening := shape.opening(choice)) is not None:
                yield _event({**head, "choices": [opening]})
        async for choice, piece in answers:
            if (step := shape.step(choice, piece)) is not None:
                yield _event({**head, "choices": [step]})
        if with_usage:
            yield _event({**head, "choices": [], "usage": answers.usage()})
    except EngineClosed as problem:
        yield _event(as_refusal(problem).body())
    except GenerationError as problem:
        yield _event(as_refusal(RequestError("internal", str(problem))).body())
    except Exception as problem:
        yield _event(as_refusal(problem).body())
    finally:
        await answers.close()
    yield _DONE


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
