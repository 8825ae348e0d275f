"""Inference with JSON: what comes back for what is asked."""

from hanbit.bench.conformance.check import Group, equal, true
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import (
    DIFFERENCE,
    FIRST,
    IDENTITY,
    ONES,
    REPEAT,
    SIMPLE,
    SUM,
    data_of,
    ok,
    pair,
    refused,
    tensor,
)

GROUP = Group("infer", "KServe v2 predict protocol: Inference, JSON")


@GROUP.check("json", "infer gives every output with name, datatype, shape and flat data")
def _json(server: Server) -> None:
    found = ok(server.infer(SIMPLE, pair()))
    one = {"datatype": "INT32", "shape": [1, 16]}
    wanted = [{"name": "OUTPUT0", **one, "data": SUM}, {"name": "OUTPUT1", **one, "data": DIFFERENCE}]
    equal(found["outputs"], wanted, "outputs")
    equal((found["model_name"], found["model_version"]), (SIMPLE, "1"), "model and version")


@GROUP.check("id", "the request's id comes back")
def _id(server: Server) -> None:
    equal(ok(server.infer(SIMPLE, pair(), id="an id")).get("id"), "an id", "id")


@GROUP.check("no-id", "without an id there is none in the answer")
def _no_id(server: Server) -> None:
    true("id" not in ok(server.infer(SIMPLE, pair())), "there is no id")


@GROUP.check("content-type", "an answer of JSON says so")
def _content_type(server: Server) -> None:
    equal(server.infer(SIMPLE, pair()).headers.get_content_type(), "application/json", "Content-Type")


@GROUP.check("one-output", "only the outputs that are asked for come")
def _one_output(server: Server) -> None:
    found = ok(server.infer(SIMPLE, pair(), outputs=[{"name": "OUTPUT1"}]))
    equal([one["name"] for one in found["outputs"]], ["OUTPUT1"], "outputs")


@GROUP.check("no-outputs", "an empty list of outputs asks for all")
def _all_outputs(server: Server) -> None:
    equal(len(ok(server.infer(SIMPLE, pair(), outputs=[]))["outputs"]), 2, "outputs")


@GROUP.check("nested", "data may be nested as the shape is")
def _nested(server: Server) -> None:
    first = {**pair()[0], "data": [FIRST]}
    equal(data_of(ok(server.infer(SIMPLE, [first, pair()[1]])), "OUTPUT0"), SUM, "OUTPUT0")


@GROUP.check("order", "inputs may come in any order")
def _order(server: Server) -> None:
    equal(data_of(ok(server.infer(SIMPLE, pair()[::-1])), "OUTPUT1"), DIFFERENCE, "OUTPUT1")


@GROUP.check("batch", "a batch up to max_batch_size is answered row by row")
def _batch(server: Server) -> None:
    inputs = [tensor("INPUT0", "INT32", FIRST * 8, [8, 16]), tensor("INPUT1", "INT32", ONES * 8, [8, 16])]
    equal(data_of(ok(server.infer(SIMPLE, inputs)), "OUTPUT0"), SUM * 8, "OUTPUT0")


@GROUP.check("optional", "optional inputs may be left out")
def _optional(server: Server) -> None:
    found = ok(server.infer(IDENTITY, [tensor("IN_INT32", "INT32", [7])]))
    equal([one["name"] for one in found["outputs"]], ["OUT_INT32"], "outputs")


@GROUP.check("empty", "a tensor of no elements goes through")
def _empty(server: Server) -> None:
    found = ok(server.infer(IDENTITY, [tensor("IN_FP32", "FP32", [])]))
    equal((found["outputs"][0]["shape"], found["outputs"][0]["data"]), ([0], []), "the output")


@GROUP.check("version", "a version in the path is the one that answers")
def _version(server: Server) -> None:
    body = {"inputs": [tensor("IN", "INT32", [1, 2], [1, 2])]}
    for version, wanted in (("1", [3, 5]), ("3", [5, 7])):
        found = ok(server.post(f"/v2/models/{PREFIX}double/versions/{version}/infer", body))
        equal((found["model_version"], data_of(found, "OUT")), (version, wanted), f"version {version}")


@GROUP.check("newest-version", "without a version the newest answers")
def _newest(server: Server) -> None:
    found = ok(server.infer(f"{PREFIX}double", [tensor("IN", "INT32", [1], [1, 1])]))
    equal((found["model_version"], data_of(found, "OUT")), ("3", [5]), "version and output")


@GROUP.check("ensemble", "an ensemble runs its steps, each with the version it names, and gives what lies between")
def _ensemble(server: Server) -> None:
    found = ok(server.infer(f"{PREFIX}pipeline", [tensor("IN", "INT32", [1, 2], [1, 2])]))
    equal((data_of(found, "MIDDLE"), data_of(found, "OUT")), ([3, 5], [9, 13]), "MIDDLE and OUT")


@GROUP.check("ensemble-one-output", "of an ensemble only the outputs that are asked for come")
def _ensemble_one(server: Server) -> None:
    found = ok(server.infer(f"{PREFIX}pipeline", [tensor("IN", "INT32", [1], [1, 1])], outputs=[{"name": "OUT"}]))
    equal([one["name"] for one in found["outputs"]], ["OUT"], "outputs")


@GROUP.check("decoupled", "infer of a decoupled model is refused with 501 where it cannot be one answer")
def _decoupled(server: Server) -> str:
    return refused(server.infer(REPEAT, [tensor("IN", "INT32", [1, 2])]), 501, 400)


@GROUP.check("unknown-key", "a key that the protocol does not know is not an error")
def _unknown_key(server: Server) -> None:
    equal(server.infer(SIMPLE, pair(), something={"else": 1}).status, 200, "status")
