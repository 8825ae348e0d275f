"""The messages of ModelInfer, both ways. Data comes raw or typed, all of a request's inputs alike; it leaves raw."""

from collections.abc import Mapping
from typing import Any

from tritonclient.grpc import service_pb2 as messages

from hanbit.server.errors import RequestError, invalid
from hanbit.server.model import ServedModel
from hanbit.server.request import InferRequest, InferResponse, RequestedOutput, Value
from hanbit.server.tensors import Tensor, from_list, from_raw, to_bytes

_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_FINAL = "triton_final_response"
WANTS_EMPTY_FINAL = "triton_enable_empty_final_response"


def as_request(model: ServedModel, message: messages.ModelInferRequest) -> InferRequest:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise invalid(f"{len(raw)} raw_input_contents for {len(message.inputs)} inputs: give one for each, or none")
    inputs: dict[str, Tensor] = {}
    for index, entry in enumerate(message.inputs):
        if entry.name in inputs:
            raise invalid(f"input {entry.name!r:.80} is given twice")
        _parameters(entry.parameters)
        inputs[entry.name] = _tensor(entry, raw[index] if raw else None)
    outputs = tuple(_output(entry) for entry in message.outputs)
    parameters = _parameters(message.parameters)
    return InferRequest(model.name, inputs, model.version, message.id, outputs, parameters)


def as_message(model: ServedModel, request: InferRequest, response: InferResponse) -> messages.ModelInferResponse:
    message = messages.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    for name, tensor in response.outputs.items():
        message.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(to_bytes(tensor))
    for name, value in response.parameters.items():
        setattr(message.parameters[name], _field_of(value), value)
    return message


def as_stream_message(
    model: ServedModel, request: InferRequest, response: InferResponse
) -> messages.ModelStreamInferResponse:
    """With the mark by which clients know the last one."""
    message = as_message(model, request, response)
    message.parameters[_FINAL].bool_param = response.is_last
    return messages.ModelStreamInferResponse(infer_response=message)


def _field_of(value: Value) -> str:
    """Of the message InferParameter."""
    if isinstance(value, bool):
        return "bool_param"
    if isinstance(value, int):
        return "int64_param" if value < 2**63 else "uint64_param"
    return "double_param" if isinstance(value, float) else "string_param"


def _tensor(entry: Any, raw: bytes | None) -> Tensor:
    shape = list(entry.shape)
    if raw is not None:
        if entry.HasField("contents"):
            raise invalid(f"input {entry.name!r:.80} has contents, and raw_input_contents too")
        return from_raw(entry.name, entry.datatype, shape, raw)
    field = _CONTENTS.get(entry.datatype)
    if field is None:
        raise invalid(f"input {entry.name!r:.80}: {entry.datatype!r:.40} has no typed contents: send it raw")
    others = [one.name for one, _ in entry.contents.ListFields() if one.name != field]
    if others:
        raise invalid(f"input {entry.name!r:.80} is {entry.datatype} and has {others[0]}: use {field}")
    return from_list(entry.name, entry.datatype, shape, list(getattr(entry.contents, field)))


def _output(entry: Any) -> RequestedOutput:
    parameters = _parameters(entry.parameters)
    if parameters.get("classification"):
        raise RequestError("unsupported", "the classification extension is not offered by this server")
    return RequestedOutput(entry.name, parameters)


def _parameters(given: Mapping[str, Any]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise invalid(f"parameter {name!r:.80} has no value")
        if name.startswith("shared_memory"):
            raise invalid("shared memory is not offered by this server; send the data")
        found[name] = getattr(value, kind)
    return found
