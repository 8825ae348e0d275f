"""Inference over gRPC: one answer, streams, and calls that are taken back."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from hanbit.bench.conformance.check import Failed, Group, equal, true
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import (
    DIFFERENCE,
    FIRST,
    IDENTITY,
    REPEAT,
    SIMPLE,
    SUM,
    call,
    from_raw,
    message,
    output_of,
    pair,
    raw,
    refusal,
    tensor,
)

GROUP = Group("grpc-infer", "KServe v2 predict protocol: GRPC ModelInfer")
STREAM = Group("grpc-stream", "Triton: inference protocols, ModelStreamInfer and decoupled responses")
_FINAL = "triton_final_response"


def _sums(response: Any) -> tuple[list[int], list[int]]:
    first, second = (from_raw("INT32", output_of(response, name)) for name in ("OUTPUT0", "OUTPUT1"))
    return first, second


@GROUP.check("raw", "raw_input_contents are answered with raw_output_contents")
def _raw(server: Server) -> None:
    found = call(server.stub.ModelInfer, message(SIMPLE, pair(), id="an id"))
    equal(_sums(found), (SUM, DIFFERENCE), "outputs")
    equal((found.id, found.model_name, found.model_version), ("an id", SIMPLE, "1"), "id, model and version")
    equal([(one.datatype, list(one.shape)) for one in found.outputs], [("INT32", [1, 16])] * 2, "datatypes and shapes")


@GROUP.check("typed", "typed contents are read as raw ones are")
def _typed(server: Server) -> None:
    equal(_sums(call(server.stub.ModelInfer, message(SIMPLE, pair(), typed=True))), (SUM, DIFFERENCE), "outputs")


_TYPED: dict[str, list[Any]] = {
    "BOOL": [True, False], "UINT8": [0, 255], "UINT16": [0, 65535], "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1], "INT8": [-128, 127], "INT16": [-32768, 32767], "INT32": [-1, 1],
    "INT64": [-(2**63), 2**63 - 1], "FP32": [1.5, -0.25], "FP64": [1e300], "BYTES": ["a", "안녕"],
}  # fmt: skip


def _each_type(datatype: str, values: list[Any]) -> Callable[[Server], None]:
    def look(server: Server) -> None:
        given = [tensor(f"IN_{datatype}", datatype, values)]
        found = call(server.stub.ModelInfer, message(IDENTITY, given, typed=True))
        wanted = raw(datatype, [one.encode() if isinstance(one, str) else one for one in values])
        equal(output_of(found, f"OUT_{datatype}"), wanted, "the output")

    return look


for _type, _values in _TYPED.items():
    GROUP.add(f"typed-{_type}", f"{_type} as typed contents", _each_type(_type, _values))


@GROUP.check("outputs", "only the outputs that are asked for come")
def _outputs(server: Server) -> None:
    found = call(server.stub.ModelInfer, message(SIMPLE, pair(), outputs=["OUTPUT1"]))
    equal([one.name for one in found.outputs], ["OUTPUT1"], "outputs")


@GROUP.check("parameters", "parameters reach the model", "parameters")
def _parameters(server: Server) -> None:
    given = message(f"{PREFIX}parameters", [tensor("IN", "INT32", [1])], a=1, b="x", c=True)
    seen = output_of(call(server.stub.ModelInfer, given), "OUT")
    true(all(part in seen for part in (b'"a": 1', b'"b": "x"', b'"c": true')), f"they are in {seen!r}")


@GROUP.check("classification", "the parameter classification of an output gives classes", "classification")
def _classes(server: Server) -> None:
    given = message(f"{PREFIX}scores", [tensor("IN", "FP32", [0.125, 0.75, 0.25, 1.0, 0.5], [1, 5])], outputs=["OUT"])
    given.outputs[0].parameters["classification"].int64_param = 2
    found = call(server.stub.ModelInfer, given)
    equal(output_of(found, "OUT"), raw("BYTES", [b"1.000000:3:dog", b"0.750000:1:bee"]), "OUT")
    equal((found.outputs[0].datatype, list(found.outputs[0].shape)), ("BYTES", [1, 2]), "datatype and shape")


@GROUP.check("sequence", "sequence parameters are those of a sequence", "sequence")
def _sequence(server: Server) -> None:
    for place, (number, wanted) in enumerate(((1, 1), (2, 3))):
        given = message(
            f"{PREFIX}sequence", [tensor("IN", "INT32", [number], [1, 1])],
            sequence_id=77, sequence_start=place == 0, sequence_end=place == 1,
        )  # fmt: skip
        equal(from_raw("INT32", output_of(call(server.stub.ModelInfer, given), "OUT")), [wanted], "OUT")


@GROUP.check("compressed", "a packed message is read")
def _compressed(server: Server) -> None:
    found = server.stub.ModelInfer(message(SIMPLE, pair()), compression=grpc.Compression.Gzip, timeout=30)
    equal(_sums(found), (SUM, DIFFERENCE), "outputs")


def _changed(change: Callable[[Any], Any], typed: bool = False) -> Any:
    made = message(SIMPLE, pair(), typed=typed)
    change(made)
    return made


_BAD: dict[str, tuple[str, Any]] = {
    "both": (
        "raw and typed contents together",
        _changed(lambda one: one.inputs[0].contents.int_contents.extend(FIRST)),
    ),
    "few-raw": ("fewer raw_input_contents than inputs", _changed(lambda one: one.raw_input_contents.pop())),
    "many-raw": ("more raw_input_contents than inputs", _changed(lambda one: one.raw_input_contents.append(b"x"))),
    "short-raw": ("raw contents of another size", _changed(lambda one: one.raw_input_contents.__setitem__(0, b"123"))),
    "short-typed": ("too few typed contents", _changed(lambda one: one.inputs[0].contents.int_contents.pop(), True)),
    "other-field": (
        "typed contents of another datatype",
        _changed(
            lambda one: (
                one.inputs[0].contents.ClearField("int_contents"),
                one.inputs[0].contents.fp32_contents.extend([1.0] * 16),
            ),
            True,
        ),
    ),
    "missing": ("an input that is missing", message(SIMPLE, pair()[:1])),
    "unknown": ("an input that the model has not", message(SIMPLE, [{**pair()[0], "name": "INPUT2"}, pair()[1]])),
    "twice": ("an input given twice", message(SIMPLE, [*pair(), pair()[0]])),
    "shape": ("another shape than the model's", message(SIMPLE, [tensor("INPUT0", "INT32", [1, 2]), pair()[1]])),
    "negative": ("a negative dim", _changed(lambda one: one.inputs[0].shape.__setitem__(0, -1))),
    "datatype": ("another datatype than the model's", _changed(lambda one: setattr(one.inputs[0], "datatype", "FP32"))),
    "no-datatype": ("a datatype that there is not", _changed(lambda one: setattr(one.inputs[0], "datatype", "INT33"))),
    "output": ("an output that the model has not", message(SIMPLE, pair(), outputs=["OUTPUT2"])),
    "reserved": ("a parameter that begins with triton_", message(SIMPLE, pair(), triton_mine=1)),
}


def _refusing(request: Any) -> Callable[[Server], str]:
    return lambda server: refusal(server.stub.ModelInfer, request, "INVALID_ARGUMENT")


for _name, (_what, _request) in _BAD.items():
    GROUP.add(f"bad-{_name}", f"{_what}: INVALID_ARGUMENT", _refusing(_request))


@GROUP.check("model-errors", "errors of the model: INTERNAL, or the status of its code")
def _model_errors(server: Server) -> str:
    found = []
    for number, code in ((1, "INTERNAL"), (2, "INTERNAL"), (3, "NOT_FOUND")):
        given = message(f"{PREFIX}failing", [tensor("IN", "INT32", [number])])
        found.append(refusal(server.stub.ModelInfer, given, code))
    return found[0]


@GROUP.check("decoupled", "ModelInfer of a decoupled model that cannot be one answer is refused")
def _decoupled(server: Server) -> str:
    given = message(REPEAT, [tensor("IN", "INT32", [1, 2])])
    return refusal(server.stub.ModelInfer, given, "UNIMPLEMENTED", "INVALID_ARGUMENT")


@GROUP.check("deadline", "a call whose deadline passes is DEADLINE_EXCEEDED, in time")
def _deadline(server: Server) -> str:
    began = time.monotonic()
    given = message(f"{PREFIX}slow", [tensor("DELAY", "UINT32", [1000], [1, 1])])
    try:
        server.stub.ModelInfer(given, timeout=0.2)
    except grpc.RpcError as problem:
        equal(problem.code(), grpc.StatusCode.DEADLINE_EXCEEDED, "status")
        true(time.monotonic() - began < 0.9, "it came in time")
        return f"{time.monotonic() - began:.2f} s"
    raise Failed("it succeeded")


def _stream(server: Server, requests: Iterable[Any]) -> list[Any]:
    """Every response of a stream of these requests. Raises Failed."""
    try:
        return list(server.stub.ModelStreamInfer(iter(list(requests)), timeout=30))
    except grpc.RpcError as problem:
        raise Failed(f"{problem.code()}: {problem.details():.160}") from None


def _repeat(numbers: list[int], **more: Any) -> Any:
    inputs = [tensor("IN", "INT32", numbers)]
    if "delay" in more:
        inputs.append(tensor("DELAY", "UINT32", [more.pop("delay")]))
    inputs += [tensor(name.upper(), "BOOL", [True]) for name in ("fail", "count") if more.pop(name, False)]
    return message(REPEAT, inputs, **more)


def _numbers(responses: list[Any]) -> list[int]:
    return [
        from_raw("INT32", output_of(one.infer_response, "OUT"))[0] for one in responses if one.infer_response.outputs
    ]


@STREAM.check("one", "a model of one response answers a request of a stream once, marked as final")
def _one(server: Server) -> None:
    found = _stream(server, [message(SIMPLE, pair(), id="a")])
    equal((len(found), found[0].infer_response.id, found[0].error_message), (1, "a", ""), "responses, id and error")
    equal(_sums(found[0].infer_response), (SUM, DIFFERENCE), "outputs")
    equal(found[0].infer_response.parameters[_FINAL].bool_param, True, "the mark")


@STREAM.check("several", "a decoupled model answers several times, in order")
def _several(server: Server) -> None:
    found = _stream(server, [_repeat([4, 5, 6], id="r")])
    equal(_numbers(found), [4, 5, 6], "numbers")
    equal({one.infer_response.id for one in found}, {"r"}, "ids")


@STREAM.check("empty-final", "triton_enable_empty_final_response adds a last empty response with the mark")
def _empty_final(server: Server) -> None:
    found = _stream(server, [_repeat([4, 5], triton_enable_empty_final_response=True)])
    marks = [(len(one.infer_response.outputs), one.infer_response.parameters[_FINAL].bool_param) for one in found]
    equal(marks, [(2, False), (2, False), (0, True)], "outputs and marks")


@STREAM.check("none", "a request without a response has none, or with the wish the empty last one")
def _none(server: Server) -> None:
    equal(len(_stream(server, [_repeat([])])), 0, "responses")
    found = _stream(server, [_repeat([], triton_enable_empty_final_response=True)])
    equal([one.infer_response.parameters[_FINAL].bool_param for one in found], [True], "marks")


@STREAM.check("many-requests", "requests of one stream are all answered, told apart by their ids")
def _many(server: Server) -> None:
    found = _stream(server, [_repeat([place, place + 100], id=str(place)) for place in range(20)])
    by_id: dict[str, list[int]] = {}
    for one in found:
        by_id.setdefault(one.infer_response.id, []).extend(_numbers([one]))
    equal(by_id, {str(place): [place, place + 100] for place in range(20)}, "numbers by id")


@STREAM.check("error", "an error is a message of the stream with the request's id, and the stream goes on")
def _error(server: Server) -> str:
    requests = [
        message(f"{PREFIX}none", pair(), id="a"),
        message(f"{PREFIX}failing", [tensor("IN", "INT32", [1])], id="b"),
        message(f"{PREFIX}failing", [tensor("IN", "INT32", [4])], id="c"),
    ]
    found = {one.infer_response.id: one for one in _stream(server, requests)}
    true(found["a"].error_message, "the unknown model is an error")
    true("one is refused" in found["b"].error_message, f"{found['b'].error_message!r} has the model's text")
    equal(found["c"].error_message, "", "the error of the third")
    return found["a"].error_message


@STREAM.check("late-error", "an error after some responses comes behind them")
def _late(server: Server) -> None:
    found = _stream(server, [_repeat([4], fail=True)])
    equal(_numbers(found), [4], "numbers")
    true("asked to fail" in found[-1].error_message, f"{found[-1].error_message!r} has the model's text")


@STREAM.check("in-time", "responses come as they are made, not all at the end")
def _in_time(server: Server) -> str:
    began, first = time.monotonic(), 0.0
    for _ in server.stub.ModelStreamInfer(iter([_repeat([1, 2, 3, 4], delay=150)]), timeout=30):
        first = first or time.monotonic() - began
    whole = time.monotonic() - began
    true(first < 0.6 * whole, f"the first came after {first:.2f} s of {whole:.2f} s")
    return f"{first:.2f} s of {whole:.2f} s"


@STREAM.check("cancel", "a stream that is cancelled ends at once, and the model answers others")
def _cancel(server: Server) -> str:
    stream = server.stub.ModelStreamInfer(iter([_repeat(list(range(200)), delay=20)]), timeout=30)
    next(stream)
    began = time.monotonic()
    stream.cancel()
    try:
        list(stream)
    except grpc.RpcError as problem:
        equal(problem.code(), grpc.StatusCode.CANCELLED, "status")
    equal(_numbers(_stream(server, [_repeat([7])])), [7], "numbers of another")
    return f"{time.monotonic() - began:.2f} s"


@STREAM.check("cancel-reaches-the-model", "what a cancelled stream asked for is not computed to its end")
def _cancel_reaches(server: Server) -> str:
    before = _numbers(_stream(server, [_repeat([0], count=True)]))[0]
    stream = server.stub.ModelStreamInfer(iter([_repeat(list(range(64)), delay=30)]), timeout=30)
    next(stream)
    stream.cancel()
    time.sleep(2.5)  # the whole would have been made by then
    made = _numbers(_stream(server, [_repeat([0], count=True)]))[0] - before - 1
    true(made < 32, f"fewer than half of 64 responses were made, not {made}")
    return f"{made} of 64 responses made"
