"""What the checks send and read again: tensors as JSON, as bytes, and as gRPC's messages."""

import json
import struct
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as messages

from hanbit.bench.conformance.check import Failed
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import PATIENCE_SECONDS, Reply, Server

HEADER_LENGTH = "Inference-Header-Content-Length"
FIRST, ONES = list(range(16)), [1] * 16
SUM, DIFFERENCE = [one + 1 for one in FIRST], [one - 1 for one in FIRST]
SIMPLE, IDENTITY, TEXT, REPEAT = (f"{PREFIX}{name}" for name in ("simple", "identity", "text", "repeat"))
_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
    "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


def tensor(name: str, datatype: str, values: Sequence[Any], shape: Sequence[int] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype,
        "shape": [len(values)] if shape is None else list(shape),
        "data": list(values),
    }


def pair() -> list[dict[str, Any]]:
    """The inputs of the model `simple`."""
    return [tensor("INPUT0", "INT32", FIRST, [1, 16]), tensor("INPUT1", "INT32", ONES, [1, 16])]


def raw(datatype: str, values: Sequence[Any]) -> bytes:
    """As the binary tensor data extension has them; BYTES are of bytes."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(one)) + one for one in values)
    return np.array(values, _DTYPES[datatype]).astype(np.dtype(_DTYPES[datatype]).newbyteorder("<")).tobytes()


def from_raw(datatype: str, data: bytes) -> list[Any]:
    return np.frombuffer(data, np.dtype(_DTYPES[datatype]).newbyteorder("<")).tolist()


def binary(name: str, datatype: str, shape: Sequence[int], size: int) -> dict[str, Any]:
    """An input whose bytes come after the JSON."""
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}


def post_binary(server: Server, model: str, body: dict[str, Any], data: bytes, length: str | None = None) -> Reply:
    """`length`: what the header says instead of the JSON's."""
    text = json.dumps(body).encode()
    headers = {HEADER_LENGTH: str(len(text)) if length is None else length}
    return server.post(f"/v2/models/{model}/infer", text + data, headers)


def ok(reply: Reply) -> Any:
    """Its JSON. Raises Failed if it is no success."""
    if reply.status != 200:
        raise Failed(f"answered {reply}")
    return reply.json()


def data_of(answer: dict[str, Any], name: str) -> Any:
    return next(one["data"] for one in answer["outputs"] if one["name"] == name)


def refused(reply: Reply, *statuses: int) -> str:
    """What was seen. Raises Failed if it is no client's mistake (4xx; or of `statuses`) told as {"error": text}."""
    right = reply.status in statuses if statuses else 400 <= reply.status < 500
    if not right or reply.error is None:
        raise Failed(f'answered {reply}; expected {statuses or "4xx"} with {{"error": text}}')
    return f"{reply.status} {reply.error:.100}"


def split(reply: Reply) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A binary answer's JSON, and the bytes of each output. Raises Failed."""
    length = reply.headers.get(HEADER_LENGTH)
    if reply.status != 200 or length is None:
        raise Failed(f"answered {reply} with {HEADER_LENGTH} {length}")
    body, data = json.loads(reply.content[: int(length)]), reply.content[int(length) :]
    found = {}
    for one in body["outputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        if size is not None:
            found[one["name"]], data = data[:size], data[size:]
    if data:
        raise Failed(f"{len(data)} bytes after the last output")
    return body, found


def message(
    model: str, inputs: Sequence[dict[str, Any]], typed: bool = False, outputs: Sequence[str] = (), **parameters: Any
) -> Any:
    """A ModelInferRequest with the same tensors, raw or typed. `id` and `version` go where they belong."""
    made = messages.ModelInferRequest(
        model_name=model, id=parameters.pop("id", ""), model_version=parameters.pop("version", "")
    )
    for one in inputs:
        entry = made.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        if typed:
            getattr(entry.contents, contents_field(one["datatype"])).extend(_encoded(one))
        else:
            made.raw_input_contents.append(raw(one["datatype"], _encoded(one)))
    for name in outputs:
        made.outputs.add(name=name)
    for name, value in parameters.items():
        set_parameter(made.parameters[name], value)
    return made


def set_parameter(place: Any, value: Any) -> None:
    if isinstance(value, bool):
        place.bool_param = value
    elif isinstance(value, int):
        place.int64_param = value
    elif isinstance(value, float):
        place.double_param = value
    else:
        place.string_param = value


def contents_field(datatype: str) -> str:
    """Of InferTensorContents."""
    if datatype in ("INT8", "INT16", "INT32"):
        return "int_contents"
    if datatype in ("UINT8", "UINT16", "UINT32"):
        return "uint_contents"
    return f"{datatype.lower()}_contents"


def _encoded(one: dict[str, Any]) -> list[Any]:
    return [item.encode() if isinstance(item, str) else item for item in one["data"]]


def output_of(response: Any, name: str) -> bytes:
    """The raw bytes of an output of a ModelInferResponse."""
    place = [one.name for one in response.outputs].index(name)
    return response.raw_output_contents[place]


def call(method: Any, request: Any, timeout: float = PATIENCE_SECONDS) -> Any:
    """A gRPC call's answer. Raises Failed with its status."""
    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as problem:
        raise Failed(f"{problem.code()}: {problem.details():.160}") from None


def refusal(method: Any, request: Any, *codes: str) -> str:
    """What was seen. Raises Failed if the call succeeds, or fails with another status than one of `codes`."""
    try:
        answer = method(request, timeout=PATIENCE_SECONDS)
    except grpc.RpcError as problem:
        if problem.code().name not in codes:
            raise Failed(f"{problem.code().name}, not {' or '.join(codes)}: {problem.details():.160}") from None
        return f"{problem.code().name} {problem.details():.100}"
    raise Failed(f"succeeded: {str(answer)!r:.160}")
