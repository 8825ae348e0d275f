"""Bad requests: each is the client's mistake, so 4xx with {"error": text}, and the server goes on."""

import json
from collections.abc import Callable
from typing import Any

from hanbit.bench.conformance.check import Group, equal
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import FIRST, IDENTITY, SIMPLE, data_of, ok, pair, refused, tensor

GROUP = Group("errors", "KServe v2 predict protocol: Inference, Error Response; HTTP's 4xx are the client's mistakes")
_FAILING = f"{PREFIX}failing"


def _first(**changed: Any) -> bytes:
    """A request whose first input has these fields instead; None takes one away."""
    first = {key: value for key, value in {**pair()[0], **changed}.items() if value is not None}
    return json.dumps({"inputs": [first, pair()[1]]}).encode()


def _whole(**changed: Any) -> bytes:
    return json.dumps({"inputs": pair(), **changed}).encode()


_BODIES: dict[str, tuple[str, bytes]] = {
    "empty": ("no body", b""),
    "not-json": ("a body that is no JSON", b"{"),
    "not-utf8": ("a body that is no text", b'{"inputs": "\xff\xfe"}'),
    "array": ("a body that is no object", b"[]"),
    "no-inputs": ("a body without inputs", b"{}"),
    "inputs-object": ("inputs that are no list", b'{"inputs": {}}'),
    "input-number": ("an input that is no object", b'{"inputs": [1, 2]}'),
    "missing-input": ("an input that is missing", json.dumps({"inputs": pair()[:1]}).encode()),
    "unknown-input": (
        "an input that the model has not",
        json.dumps({"inputs": [*pair(), tensor("INPUT2", "INT32", FIRST, [1, 16])]}).encode(),
    ),
    "input-twice": ("an input given twice", json.dumps({"inputs": [*pair(), pair()[0]]}).encode()),
    "no-name": ("an input without a name", _first(name=None)),
    "no-datatype": ("an input without a datatype", _first(datatype=None)),
    "no-shape": ("an input without a shape", _first(shape=None)),
    "no-data": ("an input without data", _first(data=None)),
    "datatype-unknown": ("a datatype that there is not", _first(datatype="INT33")),
    "datatype-other": ("another datatype than the model's", _first(datatype="FP32", data=[1.0] * 16)),
    "shape-other": ("another shape than the model's", _first(shape=[1, 15], data=[1] * 15)),
    "shape-few-dims": ("a shape without the batch dim", _first(shape=[16])),
    "shape-text": ("a shape of texts", _first(shape=["1", "16"])),
    "shape-fraction": ("a shape of fractions", _first(shape=[1.5, 16])),
    "shape-negative": ("a negative dim", _first(shape=[-1, 16])),
    "shape-overflow": ("a shape whose product overflows", _first(shape=[2**60, 2**60])),
    "data-few": ("fewer elements than the shape says", _first(data=[1] * 15)),
    "data-many": ("more elements than the shape says", _first(data=[1] * 17)),
    "data-text": ("texts for integers", _first(data=["1"] * 16)),
    "data-fraction": ("fractions for integers", _first(data=[1.5] * 16)),
    "data-null": ("null for integers", _first(data=[None] * 16)),
    "data-too-large": ("integers beyond the datatype", _first(data=[2**40] * 16)),
    "batch-large": (
        "a batch larger than max_batch_size",
        json.dumps({"inputs": [{**one, "shape": [9, 16], "data": one["data"] * 9} for one in pair()]}).encode(),
    ),
    "batch-empty": (
        "a batch of none",
        json.dumps({"inputs": [{**one, "shape": [0, 16], "data": []} for one in pair()]}).encode(),
    ),
    "batches-differ": ("inputs with different batches", _first(shape=[2, 16], data=FIRST * 2)),
    "output-unknown": ("an output that the model has not", _whole(outputs=[{"name": "OUTPUT2"}])),
    "output-no-name": ("an output without a name", _whole(outputs=[{}])),
    "outputs-object": ("outputs that are no list", _whole(outputs={"name": "OUTPUT0"})),
    "id-number": ("an id that is no text", _whole(id=5)),
    "parameters-list": ("parameters that are no object", _whole(parameters=[1])),
    "parameter-object": ("a parameter that is an object", _whole(parameters={"a": {"b": 1}})),
    "deep": ("JSON nested 3000 deep", b'{"inputs": ' + b"[" * 3000 + b"]" * 3000 + b"}"),
}


def _looking(body: bytes) -> Callable[[Server], str]:
    return lambda server: refused(server.post(f"/v2/models/{SIMPLE}/infer", body))


for _name, (_what, _body) in _BODIES.items():
    GROUP.add(_name, f"{_what} is refused", _looking(_body))


@GROUP.check("no-model", "infer of a model that does not exist is 404")
def _no_model(server: Server) -> str:
    return refused(server.infer(f"{PREFIX}none", pair()), 404)


@GROUP.check("no-version", "infer of a version that does not exist is 404")
def _no_version(server: Server) -> str:
    return refused(server.post(f"/v2/models/{SIMPLE}/versions/9/infer", {"inputs": pair()}), 404)


@GROUP.check("bool-number", "numbers for BOOL are refused")
def _bool(server: Server) -> str:
    return refused(server.infer(IDENTITY, [tensor("IN_BOOL", "BOOL", [1, 0])]))


@GROUP.check("unsigned-negative", "a negative number for UINT8 is refused")
def _unsigned(server: Server) -> str:
    return refused(server.infer(IDENTITY, [tensor("IN_UINT8", "UINT8", [-1])]))


@GROUP.check("model-error", "an error that the model makes is 500 with the model's text")
def _model_error(server: Server) -> None:
    reply = server.infer(_FAILING, [tensor("IN", "INT32", [1])])
    equal((reply.status, "one is refused" in str(reply.error)), (500, True), "status, and whether the text is there")


@GROUP.check("model-exception", "an exception in a model is 500 with an error")
def _model_exception(server: Server) -> str:
    return refused(server.infer(_FAILING, [tensor("IN", "INT32", [2])]), 500)


@GROUP.check("model-code", "an error with a code of its own has that code's status: not found is 404")
def _model_code(server: Server) -> None:
    reply = server.infer(_FAILING, [tensor("IN", "INT32", [3])])
    seen = reply.status, "three is not there" in str(reply.error)
    equal(seen, (404, True), "status, and whether the text is there")


@GROUP.check("goes-on", "after all of these the models answer as before")
def _goes_on(server: Server) -> None:
    equal(data_of(ok(server.infer(_FAILING, [tensor("IN", "INT32", [4])])), "OUT"), [4], "OUT")
    equal(server.infer(SIMPLE, pair()).status, 200, "status of simple")
