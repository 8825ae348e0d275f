"""The messages of ModelInfer, both ways. Data comes raw or typed, all of a request's inputs alike; it leaves raw."""

from collections.abc import Mapping
from typing import Any

from tritonclient.grpc import service_pb2 as messages

from hanbit.server.errors import invalid
from hanbit.server.extensions.classification import classes_wanted, classified
from hanbit.server.extensions.shared_memory import SharedMemory, place_of
from hanbit.server.model import ServedModel
from hanbit.server.request import InferRequest, InferResponse, RequestedOutput, Value
from hanbit.server.tensors import Tensor, from_list, from_raw, to_bytes, to_raw

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


def as_request(model: ServedModel, message: messages.ModelInferRequest, memory: SharedMemory) -> InferRequest:
    """Raw contents are one for each input that does not lie in shared memory. Raises RequestError."""
    places = [place_of(_plain(entry.parameters), f"input {entry.name!r:.80}") for entry in message.inputs]
    raw, num_sent = message.raw_input_contents, places.count(None)
    if raw and len(raw) != num_sent:
        raise invalid(f"{len(raw)} raw_input_contents for {num_sent} inputs: give one for each, or none")
    given = iter(raw)
    inputs: dict[str, Tensor] = {}
    for entry, place in zip(message.inputs, places, strict=True):
        if entry.name in inputs:
            raise invalid(f"input {entry.name!r:.80} is given twice")
        if place is not None:
            if entry.HasField("contents"):
                raise invalid(f"input {entry.name!r:.80} has contents, and lies in shared memory too")
            inputs[entry.name] = from_raw(entry.name, entry.datatype, list(entry.shape), memory.read(place))
        else:
            inputs[entry.name] = _tensor(entry, next(given) if raw else None)
    outputs = tuple(_output(model, entry, memory) for entry in message.outputs)
    parameters = _parameters(message.parameters)
    return InferRequest(model.name, inputs, model.version, message.id, outputs, parameters)


def as_message(
    model: ServedModel, request: InferRequest, response: InferResponse, memory: SharedMemory
) -> messages.ModelInferResponse:
    """An output in shared memory is written there and has no contents, as Triton has it."""
    wishes = {output.name: output.parameters for output in request.outputs}
    message = messages.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    for name, tensor in classified(model.config, model.labels, request, response).items():
        entry = message.outputs.add(name=name, datatype=tensor.datatype, shape=tensor.shape)
        place = place_of(wishes.get(name, {}), name)
        if place is None:
            message.raw_output_contents.append(to_bytes(tensor))
            continue
        memory.write(place, name, to_raw(tensor))
        entry.parameters["shared_memory_region"].string_param = place.region
        entry.parameters["shared_memory_byte_size"].int64_param = place.byte_size
        entry.parameters["shared_memory_offset"].int64_param = place.offset
        message.raw_output_contents.append(b"")
    for name, value in response.parameters.items():
        setattr(message.parameters[name], _field_of(value), value)
    return message


def as_stream_message(
    model: ServedModel, request: InferRequest, response: InferResponse, memory: SharedMemory
) -> messages.ModelStreamInferResponse:
    """With the mark by which clients know the last one."""
    message = as_message(model, request, response, memory)
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


def _output(model: ServedModel, entry: Any, memory: SharedMemory) -> RequestedOutput:
    """What cannot be given is refused before the model is asked."""
    parameters = _plain(entry.parameters)
    classes_wanted(model.config, entry.name, parameters)
    place = place_of(parameters, f"output {entry.name!r:.80}")
    if place is not None:
        memory.check(place)
    return RequestedOutput(entry.name, parameters)


def _parameters(given: Mapping[str, Any]) -> dict[str, Value]:
    found = _plain(given)
    reserved = next((name for name in found if name.startswith("triton_") and name != WANTS_EMPTY_FINAL), None)
    if reserved is not None:
        raise invalid(f"parameter {reserved!r:.80} begins as those that are kept for the server")
    return found


def _plain(given: Mapping[str, Any]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in given.items():
        kind = value.WhichOneof("parameter_choice")
        if kind is None:
            raise invalid(f"parameter {name!r:.80} has no value")
        found[name] = getattr(value, kind)
    return found
