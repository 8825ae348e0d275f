"""Outputs as the best classes, with their labels."""

from typing import Any

from hanbit.bench.conformance.check import Group, equal
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import IDENTITY, SIMPLE, data_of, ok, pair, raw, refused, split, tensor

GROUP = Group("classification", "Triton: extension_classification", "classification")
_MODEL = f"{PREFIX}scores"
_SCORES = [0.125, 0.75, 0.25, 1.0, 0.5]
_BEST = ["1.000000:3:dog", "0.750000:1:bee", "0.500000:4", "0.250000:2:cat", "0.125000:0:ant"]


def _wish(count: Any, name: str = "OUT", **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, "parameters": {"classification": count, **more}}]


def _scores(rows: int = 1) -> list[dict[str, Any]]:
    return [tensor("IN", "FP32", _SCORES * rows, [rows, 5])]


@GROUP.check(
    "best", "classification k gives the k best as BYTES value:index:label, without a label where there is none"
)
def _best(server: Server) -> None:
    found = ok(server.infer(_MODEL, _scores(), outputs=_wish(3)))["outputs"][0]
    equal(found, {"name": "OUT", "datatype": "BYTES", "shape": [1, 3], "data": _BEST[:3]}, "the output")


@GROUP.check("more-than-there-are", "more classes than there are gives all")
def _all(server: Server) -> None:
    equal(data_of(ok(server.infer(_MODEL, _scores(), outputs=_wish(9))), "OUT"), _BEST, "OUT")


@GROUP.check("batch", "every row of a batch is ranked by itself")
def _batch(server: Server) -> None:
    found = ok(server.infer(_MODEL, _scores(2), outputs=_wish(2)))["outputs"][0]
    equal((found["shape"], found["data"]), ([2, 2], _BEST[:2] * 2), "shape and data")


@GROUP.check("zero", "classification 0 is none")
def _zero(server: Server) -> None:
    found = ok(server.infer(_MODEL, _scores(), outputs=_wish(0)))["outputs"][0]
    equal((found["datatype"], found["data"]), ("FP32", _SCORES), "datatype and data")


@GROUP.check("binary", "the classes come as bytes where that is asked for")
def _binary(server: Server) -> None:
    _, data = split(server.infer(_MODEL, _scores(), outputs=_wish(2, binary_data=True)))
    equal(data["OUT"], raw("BYTES", [one.encode() for one in _BEST[:2]]), "OUT")


@GROUP.check("integers", "integers are written as integers, with their labels")
def _integers(server: Server) -> None:
    outputs = _wish(2, "OUTPUT0") + _wish(1, "OUTPUT1")
    found = ok(server.infer(SIMPLE, pair(), outputs=outputs))
    equal(data_of(found, "OUTPUT0"), ["16:15:class 15", "15:14:class 14"], "OUTPUT0")
    equal(data_of(found, "OUTPUT1"), ["14:15"], "OUTPUT1")


@GROUP.check("no-batches", "without batches the whole tensor is one row")
def _no_batches(server: Server) -> None:
    found = ok(server.infer(IDENTITY, [tensor("IN_FP64", "FP64", [1.0, 3.0, 2.0])], outputs=_wish(2, "OUT_FP64")))
    equal((found["outputs"][0]["shape"], data_of(found, "OUT_FP64")), ([2], ["3.000000:1", "2.000000:2"]), "the output")


@GROUP.check("equal", "of equal values the lower index comes first")
def _equal(server: Server) -> None:
    found = ok(server.infer(IDENTITY, [tensor("IN_INT64", "INT64", [5, 7, 7, 1])], outputs=_wish(4, "OUT_INT64")))
    equal(data_of(found, "OUT_INT64"), ["7:1", "7:2", "5:0", "1:3"], "OUT_INT64")


@GROUP.check("bool", "classification of BOOL is refused")
def _bool(server: Server) -> str:
    given = [tensor("IN_BOOL", "BOOL", [True, False])]
    return refused(server.infer(IDENTITY, given, outputs=_wish(1, "OUT_BOOL")))


@GROUP.check("negative", "a negative number of classes is refused")
def _negative(server: Server) -> str:
    return refused(server.infer(_MODEL, _scores(), outputs=_wish(-1)))


@GROUP.check("no-number", "a number of classes that is none is refused")
def _no_number(server: Server) -> str:
    return refused(server.infer(_MODEL, _scores(), outputs=_wish("2")))


LAST = Group("survives", GROUP.source, GROUP.extension)
"""What has ended servers: asked when all else has been."""


@LAST.check("classification-of-text", "classification of BYTES is refused, and the server goes on")
def _text(server: Server) -> str:
    given = [tensor("IN_BYTES", "BYTES", ["a", "b"])]
    return refused(server.infer(IDENTITY, given, outputs=_wish(1, "OUT_BYTES")))
