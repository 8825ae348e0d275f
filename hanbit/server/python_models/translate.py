"""Between the data plane's requests and responses and those of Python models."""

from collections.abc import Iterable, Mapping
from typing import Any

from hanbit.server.errors import Kind, RequestError
from hanbit.server.python_models.api_errors import TritonError
from hanbit.server.python_models.api_requests import (
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
)
from hanbit.server.request import InferRequest, RequestedOutput, Value
from hanbit.server.requested import RESERVED
from hanbit.server.tensors import Tensor

_KINDS: dict[int, Kind] = {
    TritonError.UNKNOWN: "unknown",
    TritonError.INTERNAL: "internal",
    TritonError.NOT_FOUND: "not_found",
    TritonError.INVALID_ARG: "invalid",
    TritonError.UNAVAILABLE: "unavailable",
    TritonError.UNSUPPORTED: "unsupported",
    TritonError.ALREADY_EXISTS: "exists",
    TritonError.CANCELLED: "cancelled",
}
_CODES: dict[Kind, int] = {
    **{kind: code for code, kind in _KINDS.items()},
    "busy": TritonError.UNAVAILABLE,
    "late": TritonError.CANCELLED,
    "too_large": TritonError.INVALID_ARG,
    "unauthorized": TritonError.INVALID_ARG,
    "forbidden": TritonError.INVALID_ARG,
}


def error_of(code: int, message: str, model: str) -> RequestError:
    """Of a model's TritonError."""
    return RequestError(_KINDS.get(code, "internal"), f"model {model!r}: {message}")


def code_of(problem: RequestError) -> int:
    """The TritonError's, for a model that asked another."""
    return _CODES[problem.kind]


def told_of(
    request: InferRequest, outputs: Iterable[str]
) -> tuple[str, int | str, int, int, list[str], Mapping[str, Any]]:
    """What a model may ask its request: id, correlation id, flags, timeout in microseconds, the names of the outputs
    that are wanted (all of `outputs` if none is named), and the model's own parameters."""
    wanted = [one.name for one in request.outputs] or list(outputs)
    given = request.parameters
    if not given:
        return request.id, 0, 0, 0, wanted, given
    flags = TRITONSERVER_REQUEST_FLAG_SEQUENCE_START if given.get("sequence_start") else 0
    flags |= TRITONSERVER_REQUEST_FLAG_SEQUENCE_END if given.get("sequence_end") else 0
    correlation_id, timeout = given.get("sequence_id", 0), given.get("timeout", 0)
    own = {name: value for name, value in given.items() if name not in RESERVED and not name.startswith("triton_")}
    return request.id, correlation_id, flags, timeout, wanted, own  # type: ignore[return-value]


def asked_request(asked: list[Any], inputs: Iterable[Tensor]) -> InferRequest:
    """What a model asks of another: as `Connection.infer` tells it."""
    model, version, id, correlation_id, flags, timeout, outputs, own = asked
    parameters: dict[str, Value] = dict(own)
    if correlation_id:
        parameters["sequence_id"] = correlation_id
        if flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            parameters["sequence_start"] = True
        if flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
            parameters["sequence_end"] = True
    if timeout:
        parameters["timeout"] = timeout
    wanted = tuple(RequestedOutput(name) for name in outputs)
    return InferRequest(model, {one.name: one for one in inputs}, version, id, wanted, parameters)
