"""Every datatype goes in and comes back the same, as JSON and as bytes."""

from collections.abc import Callable, Sequence
from typing import Any

from hanbit.bench.conformance.check import Group, equal, true
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import (
    IDENTITY,
    TEXT,
    binary,
    data_of,
    ok,
    post_binary,
    raw,
    refused,
    split,
    tensor,
)

GROUP = Group("datatypes", "KServe v2 predict protocol: Tensor Data Types; Triton: extension_binary_data")
_VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-32768, 32767],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP32": [1.5, -0.25, 2.0**-130],
    "FP64": [1e300, -1.0 / 3],
    "BYTES": ["a", "안녕하세요", ""],
}


def _as_json(datatype: str, values: Sequence[Any]) -> Callable[[Server], None]:
    def look(server: Server) -> None:
        found = ok(server.infer(IDENTITY, [tensor(f"IN_{datatype}", datatype, values)]))
        equal(data_of(found, f"OUT_{datatype}"), list(values), "the data")

    return look


def _as_bytes(datatype: str, data: bytes, count: int, model: str, names: tuple[str, str]) -> Callable[[Server], None]:
    def look(server: Server) -> None:
        body = {"inputs": [binary(names[0], datatype, [count], len(data))], "parameters": {"binary_data_output": True}}
        answer, found = split(post_binary(server, model, body, data))
        equal((answer["outputs"][0]["datatype"], found[names[1]]), (datatype, data), "datatype and bytes")

    return look


for _type, _values in _VALUES.items():
    GROUP.add(f"json-{_type}", f"{_type} goes through as JSON", _as_json(_type, _values))
for _type, _values in {**_VALUES, "FP16": [1.5, -65504.0]}.items():
    _sent = raw(_type, [one.encode() if isinstance(one, str) else one for one in _values])
    _look = _as_bytes(_type, _sent, len(_values), IDENTITY, (f"IN_{_type}", f"OUT_{_type}"))
    GROUP.add(f"binary-{_type}", f"{_type} goes through as bytes", _look, "binary_tensor_data")
GROUP.add(
    "binary-BF16",
    "BF16 goes through as bytes",
    _as_bytes("BF16", b"\x80\x3f\x00\x40\xc0\x7f", 3, f"{PREFIX}bfloat", ("IN", "OUT")),
    "binary_tensor_data",
)


@GROUP.check("nan", "NaN and the infinities go through as bytes", "binary_tensor_data")
def _nan(server: Server) -> None:
    data = b"\x00\x00\xc0\x7f\x00\x00\x80\x7f\x00\x00\x80\xff"
    _as_bytes("FP32", data, 3, IDENTITY, ("IN_FP32", "OUT_FP32"))(server)


@GROUP.check("integers-as-fp", "integers of JSON are taken for FP32")
def _integers(server: Server) -> None:
    found = ok(server.infer(IDENTITY, [tensor("IN_FP32", "FP32", [1, 2])]))
    equal(data_of(found, "OUT_FP32"), [1.0, 2.0], "the data")


@GROUP.check("too-large-fp32", "a number beyond FP32 is refused")
def _too_large(server: Server) -> str:
    return refused(server.infer(IDENTITY, [tensor("IN_FP32", "FP32", [1e300])]))


@GROUP.check("too-large-uint8", "256 for UINT8 is refused")
def _too_large_integer(server: Server) -> str:
    return refused(server.infer(IDENTITY, [tensor("IN_UINT8", "UINT8", [256])]))


@GROUP.check("text", "a text of many bytes is one element of BYTES and comes back whole")
def _text(server: Server) -> None:
    text = "한글 \u0000 \U0001f600 " * 2000
    found = ok(server.infer(TEXT, [tensor("text_input", "BYTES", [text])]))
    equal(data_of(found, "text_output"), [text[::-1]], "text_output")


@GROUP.check("no-text-as-json", "BYTES that are no UTF-8 do not come as broken JSON")
def _no_text(server: Server) -> str:
    data = raw("BYTES", [b"abc\xff"])
    reply = post_binary(server, IDENTITY, {"inputs": [binary("IN_BYTES", "BYTES", [1], len(data))]}, data)
    if reply.status == 200:
        true(_is_utf8(reply.content), "an answer of application/json is UTF-8")
        data_of(ok(reply), "OUT_BYTES")
    return f"{reply.status}"


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
