"""The generate extension: plain JSON in, plain JSON out, for models that speak; one object, or one a piece (SSE).

A key that is an input of the model becomes that tensor, any other a parameter of the request; so does everything under
"parameters".
"""

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive

from hanbit.repository.config import wire_datatype
from hanbit.server.errors import as_request_error, invalid
from hanbit.server.frontends.http_tensors import id_of, parameters_of
from hanbit.server.frontends.listening import EventStream, unless_gone
from hanbit.server.model import ServedModel
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.tensors import Tensor, from_list, to_list

_STREAM = "stream"
Received = Callable[[InferRequest], InferRequest]
"""What is done to a request that has been read: see `traced.py`."""


async def generate(model: ServedModel, body: Mapping[str, Any], received: Received) -> dict[str, Any]:
    request = received(_request(model, body))
    return _as_json(model, request, await model.one(request))


async def generate_stream(
    model: ServedModel, body: Mapping[str, Any], receive: Receive, received: Received
) -> Response:
    """A model with an input `stream` is asked to. What fails before the first piece is an ordinary error."""
    has_switch = any(one.name == _STREAM for one in model.config.input)
    nested = body.get("parameters")
    is_said = _STREAM in body or (isinstance(nested, dict) and _STREAM in nested)
    request = received(_request(model, body if is_said or not has_switch else {**body, _STREAM: True}))
    responses = model.infer(request)
    try:
        first = await unless_gone(receive, _first(responses))
    except BaseException:
        await responses.aclose()
        raise
    return EventStream(_events(model, request, first, responses))


async def _first(responses: AsyncGenerator[InferResponse]) -> InferResponse:
    return await anext(responses)


async def _events(
    model: ServedModel, request: InferRequest, first: InferResponse, rest: AsyncGenerator[InferResponse]
) -> AsyncGenerator[str]:
    async with aclosing(rest):
        try:
            if first.outputs:
                yield _event(_as_json(model, request, first))
            async for response in rest:
                if response.outputs:
                    yield _event(_as_json(model, request, response))
        except Exception as problem:
            yield _event({"error": as_request_error(problem).message})


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _request(model: ServedModel, body: Mapping[str, Any]) -> InferRequest:
    given = {name: value for name, value in body.items() if name not in ("id", "parameters")}
    nested = body.get("parameters")
    if isinstance(nested, dict):
        twice = sorted(set(nested) & set(given))
        if twice:
            raise invalid(f"{twice[0]!r:.80} is given twice, once under parameters")
        given |= nested
    elif nested is not None:
        raise invalid("parameters must be an object")
    inputs = _inputs(model, given)
    parameters = {name: value for name, value in given.items() if name not in inputs and value is not None}
    return InferRequest(model.name, inputs, model.version, id_of(body), (), parameters_of(parameters, "the request"))


def _inputs(model: ServedModel, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """A single value is a tensor of one element; null is as if it were not there."""
    found = {}
    for one in model.config.input:
        value = given.get(one.name)
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        shape = [1, len(values)] if model.config.max_batch_size > 0 else [len(values)]
        found[one.name] = from_list(one.name, wire_datatype(one.data_type), shape, values)
    return found


def _as_json(model: ServedModel, request: InferRequest, response: InferResponse) -> dict[str, Any]:
    found: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if request.id:
        found["id"] = request.id
    for name, tensor in response.outputs.items():
        values = to_list(tensor)
        found[name] = values[0] if len(values) == 1 else values
    return found
