"""Requests, responses and senders of `triton_python_backend_utils`.

The same classes serve both ways: what the server hands to a model, and what a model asks of other models (`exec`).
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from hanbit.server.python_models.api_errors import TritonError, TritonModelException
from hanbit.server.python_models.api_tensor import Tensor
from hanbit.server.python_models.host import host

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2
TRITONSERVER_MEMORY_CPU = 0
TRITONSERVER_MEMORY_GPU = 1


class PreferredMemory:
    """Where answers of other models should be; all are on the CPU here."""

    def __init__(self, preferred_memory_type: int, preferred_device_id: int = 0) -> None:
        self.preferred_memory_type, self.preferred_device_id = preferred_memory_type, preferred_device_id


class InferenceTrace:
    """A request's trace context; there is none here."""

    def get_context(self) -> str | None:
        return None


class Outlet(Protocol):
    """Where the responses of one request go."""

    def send(self, response: "InferenceResponse | None", is_final: bool) -> None: ...

    def is_cancelled(self) -> bool: ...


class InferenceResponse:
    __slots__ = ("_error", "_output_tensors", "_parameters")

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        parameters: Mapping[str, bool | int | float | str] | None = None,
    ) -> None:
        self._output_tensors = list(output_tensors)
        for one in self._output_tensors:
            if not isinstance(one, Tensor):
                raise TritonModelException("output_tensors of an InferenceResponse are pb_utils.Tensor")
        if error is not None and not isinstance(error, TritonError):
            raise TritonModelException("error of an InferenceResponse is a pb_utils.TritonError")
        self._error, self._parameters = error, _scalars(parameters)

    def output_tensors(self) -> list[Tensor]:
        return self._output_tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        """JSON."""
        return json.dumps(self._parameters)


class InferenceResponseSender:
    """Sends a request's responses one by one, from any thread."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        """Raises TritonModelException behind the last one."""
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException(f"flags={flags!r} must be 0 or TRITONSERVER_RESPONSE_COMPLETE_FINAL")
        if response is None and not flags:
            raise TritonModelException("send takes a response, or the flag TRITONSERVER_RESPONSE_COMPLETE_FINAL")
        if not isinstance(response, InferenceResponse | None):
            raise TritonModelException(f"send takes an InferenceResponse, not {type(response).__name__}")
        self._outlet.send(response, bool(flags))

    def is_cancelled(self) -> bool:
        return self._outlet.is_cancelled()


class InferenceRequest:
    """Made by a model for `exec` with the arguments below; `timeout`: microseconds, 0 is none."""

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] | None = None,
        requested_output_names: Sequence[str] | None = None,
        model_name: str | None = None,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: Mapping[str, bool | int | float | str] | None = None,
    ) -> None:
        if model_name is None or inputs is None or requested_output_names is None:
            raise TritonModelException("an InferenceRequest needs model_name, inputs and requested_output_names")
        if not all(isinstance(one, Tensor) for one in inputs):
            raise TritonModelException("inputs of an InferenceRequest are pb_utils.Tensor")
        if isinstance(correlation_id, bool) or not isinstance(correlation_id, int | str):
            raise TritonModelException("correlation_id must be a whole number or a text")
        self.model_name, self.model_version = str(model_name), int(model_version)
        self._set(request_id, correlation_id, list(inputs), list(requested_output_names), flags, timeout)
        self._parameters: Mapping[str, Any] = _scalars(parameters)

    @classmethod
    def _incoming(
        cls,
        request_id: str,
        correlation_id: int | str,
        inputs: list[Tensor],
        outputs: list[str],
        flags: int,
        timeout: int,
        parameters: Mapping[str, Any],
        outlet: Outlet,
    ) -> "InferenceRequest":
        """What a model is given to answer."""
        self = cls.__new__(cls)
        self.model_name, self.model_version = "", -1
        self._set(request_id, correlation_id, inputs, outputs, flags, timeout)
        self._parameters, self._outlet = parameters, outlet
        return self

    def _set(
        self, id: str, correlation_id: int | str, inputs: list[Tensor], outputs: list[str], flags: int, timeout: int
    ) -> None:
        self._id, self._correlation_id, self._inputs, self._outputs = id, correlation_id, inputs, outputs
        self._flags, self._timeout = flags, timeout
        self._outlet: Outlet | None = None

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def requested_output_names(self) -> list[str]:
        return self._outputs

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: int) -> None:
        self._flags = flags

    def timeout(self) -> int:
        return self._timeout

    def parameters(self) -> str:
        """JSON, without those that are of the protocol."""
        return json.dumps(self._parameters)

    def trace(self) -> InferenceTrace:
        return InferenceTrace()

    def is_cancelled(self) -> bool:
        return self._outlet is not None and self._outlet.is_cancelled()

    def get_response_sender(self) -> InferenceResponseSender:
        if self._outlet is None:
            raise TritonModelException("only a request that a model was given has a response sender")
        return InferenceResponseSender(self._outlet)

    def set_release_flags(self, flags: int) -> None:
        if flags != TRITONSERVER_REQUEST_RELEASE_ALL:
            raise TritonModelException("requests are not scheduled again here: iterative sequences are not offered")

    def exec(self, decoupled: bool = False) -> "InferenceResponse | ResponseIterator":
        """Ask the model and wait. With `decoupled` an iterator over its responses, else the one."""
        self._check_own()
        responses = host().infer(self)
        return ResponseIterator(responses) if decoupled else _single(list(responses))

    def async_exec(self, decoupled: bool = False) -> "asyncio.Future[Any]":
        """As `exec`, to be awaited; it begins at once."""
        self._check_own()
        return asyncio.ensure_future(self._async_exec(decoupled))

    async def _async_exec(self, decoupled: bool) -> "InferenceResponse | ResponseIterator":
        responses = await host().infer_async(self, not decoupled)
        return ResponseIterator(responses) if decoupled else _single(list(responses))

    def _check_own(self) -> None:
        if not self.model_name:
            raise TritonModelException("this request was given to the model; make an InferenceRequest to ask another")


class ResponseIterator:
    """Over the responses of a decoupled model, as they come."""

    def __init__(self, responses: Iterator[InferenceResponse]) -> None:
        self._responses = responses

    def __iter__(self) -> "ResponseIterator":
        return self

    def __next__(self) -> InferenceResponse:
        return next(self._responses)

    def cancel(self) -> None:
        """No further response is wanted."""
        close = getattr(self._responses, "close", None)
        if close is not None:
            close()


def asked_of(request: InferenceRequest) -> list[Any]:
    """What `exec` asks, as JSON has it; the inputs are apart."""
    version = str(request.model_version) if request.model_version > 0 else ""
    names = request.requested_output_names()
    id, correlation_id, flags, timeout = request._id, request._correlation_id, request._flags, request._timeout
    return [request.model_name, version, id, correlation_id, flags, timeout, names, request._parameters]


def _single(responses: list[InferenceResponse]) -> InferenceResponse:
    """Of a model that may not give several."""
    full = [one for one in responses if one.has_error() or one.output_tensors()]
    if len(full) > 1:
        raise TritonModelException("the model gave several responses: exec(decoupled=True) takes them")
    return full[0] if full else InferenceResponse()


def _scalars(parameters: Mapping[str, Any] | None) -> dict[str, bool | int | float | str]:
    if not parameters:
        return {}
    found = dict(parameters)
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, bool | int | float | str):
            raise TritonModelException(f"parameter {name!r:.80} must be a truth value, a whole number or a text")
    return found
