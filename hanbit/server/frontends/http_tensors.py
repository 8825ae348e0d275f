"""The body of `infer` over HTTP, both ways: JSON, with the tensors' data in it or as raw bytes after it.

The binary tensor data extension: the header Inference-Header-Content-Length says where the JSON ends; 0 means there is
none, and the body is the single input that a model needs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanbit.repository.config import wire_datatype
from hanbit.server.errors import invalid
from hanbit.server.extensions.classification import classes_wanted, classified
from hanbit.server.extensions.shared_memory import SharedMemory, place_of
from hanbit.server.model import ServedModel
from hanbit.server.request import InferRequest, InferResponse, RequestedOutput, Value
from hanbit.server.strict_json import parse_object
from hanbit.server.tensors import Raw, Tensor, from_list, from_raw, item_bytes, num_elements, to_list, to_raw

HEADER_LENGTH = "Inference-Header-Content-Length"
_MOST_TENSORS = 1024
_KEYS = {"id", "parameters", "inputs", "outputs"}
_MOST_DIGITS = 20  # of a body's length: Python turns no text of thousands into a number
_LEAST_NUMBER, _MOST_NUMBER = -(2**63), 2**64 - 1  # of the protocol's own integers, int64 and uint64


def parse_request(model: ServedModel, body: bytes, header_length: str | None, memory: SharedMemory) -> InferRequest:
    """Names, datatypes and shapes are held against the model later, when it is asked."""
    if header_length is None:
        return _from_json(model, body, memoryview(b""), memory)
    is_number = header_length.isascii() and header_length.isdecimal() and len(header_length) <= _MOST_DIGITS
    if not is_number or int(header_length) > len(body):
        raise invalid(f"{HEADER_LENGTH}: {header_length!r:.40} must be a number up to the body's {len(body)} bytes")
    size = int(header_length)
    if size == 0:
        tensor = _raw_input(model, body)
        return InferRequest(model.name, {tensor.name: tensor}, model.version, parameters={"binary_data_output": True})
    return _from_json(model, body[:size], memoryview(body)[size:], memory)


def response_body(
    model: ServedModel, request: InferRequest, response: InferResponse, memory: SharedMemory
) -> tuple[list[Raw], dict[str, str]]:
    """The parts of the body, and its headers. What lies in shared memory is written there, and only described."""
    wishes = {output.name: output.parameters for output in request.outputs}
    all_binary = request.parameters.get("binary_data_output") is True
    described, raw = [], []
    for name, tensor in classified(model.config, model.labels, request, response).items():
        entry: dict[str, Any] = {"name": name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        place = place_of(wishes.get(name, {}), name)
        if place is not None:
            memory.write(place, name, to_raw(tensor))
        elif wishes.get(name, {}).get("binary_data", all_binary) is True:
            raw.append(to_raw(tensor))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = to_list(tensor)
        described.append(entry)
    found: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": described}
    if request.id:
        found["id"] = request.id
    if response.parameters:
        found["parameters"] = dict(response.parameters)
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
    if not raw:
        return [text], {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return [text, *raw], headers


def id_of(body: Mapping[str, Any]) -> str:
    """It goes back with the answer, so it must be a text that can be written."""
    id = body.get("id", "")
    if not isinstance(id, str) or any("\ud800" <= sign <= "\udfff" for sign in id):
        raise invalid(f"the request's id must be a text without half a surrogate pair, not {id!a:.80}")
    return id


def parameters_of(value: Any, what: str) -> dict[str, Value]:
    """Scalars by name."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{what}: parameters must be an object")
    for name, one in value.items():
        if not isinstance(one, bool | int | float | str) or (isinstance(one, float) and not math.isfinite(one)):
            raise invalid(f"{what}: parameter {name!r:.80} must be a truth value, a number or a text")
        if isinstance(one, int) and not _LEAST_NUMBER <= one <= _MOST_NUMBER:
            raise invalid(f"{what}: parameter {name!r:.80} must be from -2^63 to below 2^64")
    reserved = next((name for name in value if name.startswith("triton_")), None)
    if reserved is not None:
        raise invalid(f"{what}: parameter {reserved!r:.80} begins as those that are kept for the server")
    return value


def _from_json(model: ServedModel, text: bytes, raw: memoryview, memory: SharedMemory) -> InferRequest:
    """Keys that are not the protocol's are nobody's: clients send some of their own."""
    value = parse_object(text, "the request")
    if "inputs" not in value:
        unknown = min(set(value) - _KEYS, default=None)
        instead = "" if unknown is None else f", but {unknown!r:.80}; known are {', '.join(sorted(_KEYS))}"
        raise invalid(f"the request has no inputs{instead}")
    inputs = _Inputs(raw, memory)
    for entry in _entries(value, "inputs"):
        inputs.take(entry)
    inputs.check_end()
    outputs = tuple(_output(model, entry, memory) for entry in _entries(value, "outputs"))
    parameters = parameters_of(value.get("parameters"), "the request")
    return InferRequest(model.name, inputs.found, model.version, id_of(value), outputs, parameters)


@dataclass
class _Inputs:
    """Tensors in the order of the JSON; each takes its bytes from the front of what is left of `raw`."""

    raw: memoryview
    memory: SharedMemory

    def __post_init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def take(self, entry: Mapping[str, Any]) -> None:
        name, datatype, shape = entry["name"], entry.get("datatype"), entry.get("shape")
        what = f"input {name!r:.80}"
        if name in self.found:
            raise invalid(f"{what} is given twice")
        if not isinstance(datatype, str) or not isinstance(shape, list):
            raise invalid(f"{what} needs a datatype and a shape")
        parameters = parameters_of(entry.get("parameters"), what)
        place = place_of(parameters, what)
        if ("binary_data_size" in parameters) + ("data" in entry) + (place is not None) > 1:
            raise invalid(f"{what} has more than one of data, binary_data_size and shared_memory_region")
        if place is not None:
            self.found[name] = from_raw(name, datatype, shape, self.memory.read(place))
        elif "binary_data_size" in parameters:
            self.found[name] = from_raw(name, datatype, shape, self._next(what, parameters["binary_data_size"]))
        elif isinstance(entry.get("data"), list):
            self.found[name] = from_list(name, datatype, shape, entry["data"])
        else:
            raise invalid(f"{what} needs data, a list, or the parameter binary_data_size")

    def check_end(self) -> None:
        if len(self.raw):
            raise invalid(f"{len(self.raw)} bytes after the last tensor belong to no input")

    def _next(self, what: str, size: Value) -> memoryview:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(self.raw):
            raise invalid(f"{what}: binary_data_size={size!r:.40} does not fit the {len(self.raw)} bytes that are left")
        data, self.raw = self.raw[:size], self.raw[size:]
        return data


def _entries(value: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    entries = value.get(key, [])
    if not isinstance(entries, list) or len(entries) > _MOST_TENSORS:
        raise invalid(f"{key} must be a list of at most {_MOST_TENSORS} tensors")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise invalid(f"each of {key} must be an object with a name")
    return entries


def _output(model: ServedModel, entry: Mapping[str, Any], memory: SharedMemory) -> RequestedOutput:
    """What cannot be given is refused before the model is asked."""
    what = f"output {entry['name']!r:.80}"
    parameters = parameters_of(entry.get("parameters"), what)
    classes_wanted(model.config, entry["name"], parameters)
    place = place_of(parameters, what)
    if place is not None:
        memory.check(place)
    return RequestedOutput(entry["name"], parameters)


def _raw_input(model: ServedModel, body: bytes) -> Tensor:
    """The whole body as the one input that is needed; of its shape one dim may be open."""
    needed = [one for one in model.config.input if not one.optional]
    if len(needed) != 1:
        raise invalid(f"model {model.name!r} needs {len(needed)} inputs; a raw body can only be one")
    name, datatype = needed[0].name, wire_datatype(needed[0].data_type)
    dims = [1, *needed[0].dims] if model.config.max_batch_size > 0 else list(needed[0].dims)
    if datatype == "BYTES":
        data = np.empty(1, np.object_)
        data[0] = body
        shape = (1,) * len(dims)
        return Tensor(name, datatype, shape, data.reshape(shape))
    if dims.count(-1) > 1:
        raise invalid(f"input {name!r} has several open dims {dims}: a raw body cannot say its shape")
    if -1 in dims:
        known = num_elements(name, [dim for dim in dims if dim != -1])
        dims[dims.index(-1)] = len(body) // max(1, known * item_bytes(datatype))
    return from_raw(name, datatype, dims, body)
