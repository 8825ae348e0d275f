"""Tensors as bytes after the JSON."""

from collections.abc import Callable

from hanbit.bench.conformance.check import Group, equal
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import (
    DIFFERENCE,
    FIRST,
    HEADER_LENGTH,
    IDENTITY,
    ONES,
    SIMPLE,
    SUM,
    binary,
    data_of,
    from_raw,
    ok,
    pair,
    post_binary,
    raw,
    refused,
    split,
)

GROUP = Group("binary", "Triton: extension_binary_data", "binary_tensor_data")
_DATA = raw("INT32", FIRST) + raw("INT32", ONES)
_TWO = [binary("INPUT0", "INT32", [1, 16], 64), binary("INPUT1", "INT32", [1, 16], 64)]
_STRINGS = raw("BYTES", [b"\x00\x01abc\xff", b""])


@GROUP.check("in", "inputs may be bytes after the JSON, in the order of the inputs")
def _in(server: Server) -> None:
    found = ok(post_binary(server, SIMPLE, {"inputs": _TWO}, _DATA))
    equal((data_of(found, "OUTPUT0"), data_of(found, "OUTPUT1")), (SUM, DIFFERENCE), "outputs")


@GROUP.check("mixed", "some inputs may be bytes and others JSON")
def _mixed(server: Server) -> None:
    found = ok(post_binary(server, SIMPLE, {"inputs": [_TWO[0], pair()[1]]}, raw("INT32", FIRST)))
    equal(data_of(found, "OUTPUT0"), SUM, "OUTPUT0")


@GROUP.check("out", "binary_data of an output makes that one bytes, with binary_data_size in its parameters")
def _out(server: Server) -> None:
    outputs = [{"name": "OUTPUT0", "parameters": {"binary_data": True}}, {"name": "OUTPUT1"}]
    body, data = split(server.infer(SIMPLE, pair(), outputs=outputs))
    equal(data_of(body, "OUTPUT1"), DIFFERENCE, "OUTPUT1")
    equal({name: from_raw("INT32", one) for name, one in data.items()}, {"OUTPUT0": SUM}, "bytes")


@GROUP.check("out-all", "binary_data_output makes all outputs bytes")
def _out_all(server: Server) -> None:
    _, data = split(server.infer(SIMPLE, pair(), parameters={"binary_data_output": True}))
    equal({name: from_raw("INT32", one) for name, one in data.items()},
          {"OUTPUT0": SUM, "OUTPUT1": DIFFERENCE}, "bytes")  # fmt: skip


@GROUP.check("out-wish", "binary_data of an output goes before binary_data_output")
def _out_wish(server: Server) -> None:
    wish = {"name": "OUTPUT0", "parameters": {"binary_data": False}}
    more = {"outputs": [wish, {"name": "OUTPUT1"}], "parameters": {"binary_data_output": True}}
    body, data = split(server.infer(SIMPLE, pair(), **more))
    equal((data_of(body, "OUTPUT0"), list(data)), (SUM, ["OUTPUT1"]), "JSON and bytes")


@GROUP.check("bytes", "BYTES are each a length of 4 bytes and any bytes, zeros and no UTF-8 too")
def _bytes(server: Server) -> None:
    body = {"inputs": [binary("IN_BYTES", "BYTES", [2], len(_STRINGS))], "parameters": {"binary_data_output": True}}
    _, data = split(post_binary(server, IDENTITY, body, _STRINGS))
    equal(data["OUT_BYTES"], _STRINGS, "OUT_BYTES")


@GROUP.check("raw-body", "header length 0: the body is the one input of a model, and the answer is bytes")
def _raw_body(server: Server) -> None:
    reply = server.post(f"/v2/models/{PREFIX}failing/infer", raw("INT32", [5]), {HEADER_LENGTH: "0"})
    equal(from_raw("INT32", split(reply)[1]["OUT"]), [5], "OUT")


@GROUP.check("raw-body-batch", "header length 0: where the model has batches, it is a batch of one")
def _raw_batch(server: Server) -> None:
    scores = [1.0, 2.0, 3.0, 4.0, 5.0]
    reply = server.post(f"/v2/models/{PREFIX}scores/infer", raw("FP32", scores), {HEADER_LENGTH: "0"})
    body, data = split(reply)
    equal((body["outputs"][0]["shape"], from_raw("FP32", data["OUT"])), ([1, 5], scores), "shape and OUT")


@GROUP.check("raw-body-two", "header length 0: a model of two inputs refuses it")
def _raw_two(server: Server) -> str:
    return refused(server.post(f"/v2/models/{SIMPLE}/infer", _DATA, {HEADER_LENGTH: "0"}))


@GROUP.check("raw-body-size", "header length 0: a body of another size than the input's is refused")
def _raw_size(server: Server) -> str:
    return refused(server.post(f"/v2/models/{PREFIX}failing/infer", b"ab", {HEADER_LENGTH: "0"}))


@GROUP.check("both", "an input with data and binary_data_size is refused")
def _both(server: Server) -> str:
    return refused(post_binary(server, SIMPLE, {"inputs": [{**_TWO[0], "data": FIRST}, pair()[1]]}, _DATA[:64]))


_BROKEN = {
    "additional": ("bytes after the last input", [64, 64], _DATA + b"x"),
    "missing": ("fewer bytes than the inputs say", [64, 64], _DATA[:-1]),
    "size-other": ("sizes that do not fit the shapes", [60, 68], _DATA),
    "size-negative": ("a negative size", [-64, 64], _DATA),
    "size-huge": ("a size of 2^63", [2**63, 64], _DATA),
}


def _broken(sizes: list[int], data: bytes) -> Callable[[Server], str]:
    inputs = [binary(f"INPUT{index}", "INT32", [1, 16], size) for index, size in enumerate(sizes)]
    return lambda server: refused(post_binary(server, SIMPLE, {"inputs": inputs}, data))


for _name, (_what, _sizes, _sent) in _BROKEN.items():
    GROUP.add(_name, f"{_what}: refused", _broken(_sizes, _sent))


def _length(value: str) -> Callable[[Server], str]:
    return lambda server: refused(post_binary(server, SIMPLE, {"inputs": pair()}, b"", value))


for _value in ("-1", "abc", "99999999", "18446744073709551616"):
    GROUP.add(f"length-{_value}", f"the header length {_value} is refused", _length(_value))


def _strings(count: int, data: bytes) -> Callable[[Server], str]:
    return lambda server: refused(
        post_binary(server, IDENTITY, {"inputs": [binary("IN_BYTES", "BYTES", [count], len(data))]}, data)
    )


GROUP.add("bytes-beyond", "BYTES whose length goes beyond the end are refused", _strings(1, b"\xff\x00\x00\x00abc"))
GROUP.add("bytes-few", "fewer BYTES than the shape says are refused", _strings(3, _STRINGS))
GROUP.add("bytes-many", "more BYTES than the shape says are refused", _strings(1, _STRINGS))
