"""Ensembles of small made-up models: order, waves, back-pressure and closing, without an engine."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import pytest

from hanbit.repository.config import parse_config
from hanbit.server.ensemble import Ensemble
from hanbit.server.errors import RequestError
from hanbit.server.model import ServedModel, single
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.tensors import Tensor, tensor

Work = Callable[[Mapping[str, Tensor], list[Any]], AsyncGenerator[InferResponse]]


def number(name: str, value: int) -> Tensor:
    return tensor(name, "INT32", [value])


def value_of(tensors: Mapping[str, Tensor], name: str) -> int:
    return int(tensors[name].data[0])


class Made:
    """A backend of one function; `memory` is a run's own."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def start(self) -> Any:
        memory: list[Any] = []
        work = self._work

        class Run:
            def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
                memory.append(request.is_last)
                return work(request.inputs, memory)

        return Run()

    def close(self) -> None:
        pass


def model(name: str, inputs: str, outputs: str, work: Work, decoupled: bool = False) -> ServedModel:
    lines = [f'name: "{name}" backend: "made"']
    lines += [f'input {{ name: "{one}" data_type: TYPE_INT32 dims: 1 }}' for one in inputs.split()]
    lines += [f'output {{ name: "{one}" data_type: TYPE_INT32 dims: 1 }}' for one in outputs.split()]
    lines += ["model_transaction_policy { decoupled: true }"] if decoupled else []
    return ServedModel(parse_config("\n".join(lines), name), "1", ("1",), Made(work))


def ensemble(inputs: str, outputs: str, steps: list[tuple[ServedModel, dict[str, str], dict[str, str]]]) -> ServedModel:
    text = ['name: "all" platform: "ensemble" ensemble_scheduling {']
    for one, reads, writes in steps:
        maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in reads.items()]
        maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in writes.items()]
        text.append(f'step {{ model_name: "{one.name}" model_version: -1 {" ".join(maps)} }}')
    text.append("}")
    text += [f'input {{ name: "{one}" data_type: TYPE_INT32 dims: 1 }}' for one in inputs.split()]
    text += [f'output {{ name: "{one}" data_type: TYPE_INT32 dims: 1 }}' for one in outputs.split()]
    config = parse_config("\n".join(text), "all")
    members = {one.name: one for one, _, _ in steps}
    return ServedModel(config, "1", ("1",), Ensemble(config, lambda name, version: members[name]))


async def add_one(tensors: Mapping[str, Tensor], memory: list[Any]) -> AsyncGenerator[InferResponse]:
    yield InferResponse({"y": number("y", value_of(tensors, "x") + 1)})


async def count_up(tensors: Mapping[str, Tensor], memory: list[Any]) -> AsyncGenerator[InferResponse]:
    for index in range(value_of(tensors, "x")):
        yield InferResponse({"y": number("y", index)}, is_last=index == value_of(tensors, "x") - 1)


async def sum_so_far(tensors: Mapping[str, Tensor], memory: list[Any]) -> AsyncGenerator[InferResponse]:
    memory[-1] = value_of(tensors, "x")
    yield InferResponse({"y": number("y", sum(memory))})


def ask(asked: ServedModel, **values: int) -> list[dict[str, int]]:
    async def all_of() -> list[dict[str, int]]:
        request = InferRequest(asked.name, {name: number(name, value) for name, value in values.items()})
        found = []
        async for response in asked.infer(request):
            found.append(
                {name: int(one.data[0]) for name, one in response.outputs.items()} | {"last": response.is_last}
            )
        return found

    return asyncio.run(all_of())


def test_steps_run_in_the_order_of_their_tensors_not_of_the_file() -> None:
    plus = [model(f"plus{index}", "x", "y", add_one) for index in range(3)]
    chain = ensemble(
        "a",
        "d",
        [(plus[2], {"x": "c"}, {"y": "d"}), (plus[1], {"x": "b"}, {"y": "c"}), (plus[0], {"x": "a"}, {"y": "b"})],
    )
    assert ask(chain, a=5) == [{"d": 8, "last": True}]
    assert [one.statistics.success.count for one in plus] == [1, 1, 1]


def test_steps_that_do_not_need_each_other_run_together() -> None:
    met = []

    async def meet(tensors: Mapping[str, Tensor], memory: list[Any]) -> AsyncGenerator[InferResponse]:
        met.append(1)
        while len(met) < 2:  # for ever, if the other one waits for us
            await asyncio.sleep(0)
        yield InferResponse({"y": tensors["x"].renamed("y")})

    async def add(tensors: Mapping[str, Tensor], memory: list[Any]) -> AsyncGenerator[InferResponse]:
        yield InferResponse({"y": number("y", value_of(tensors, "a") + value_of(tensors, "b"))})

    diamond = ensemble(
        "in", "out",
        [
            (model("left", "x", "y", meet), {"x": "in"}, {"y": "l"}),
            (model("right", "x", "y", meet), {"x": "in"}, {"y": "r"}),
            (model("join", "a b", "y", add), {"a": "l", "b": "r"}, {"y": "out"}),
        ],
    )  # fmt: skip
    assert ask(diamond, **{"in": 4}) == [{"out": 8, "last": True}]


def test_what_is_behind_a_stream_runs_once_a_piece_and_remembers() -> None:
    steps = [
        (model("count", "x", "y", count_up, decoupled=True), {"x": "n"}, {"y": "i"}),
        (model("sum", "x", "y", sum_so_far), {"x": "i"}, {"y": "s"}),
    ]
    found = ask(ensemble("n", "i s", steps), n=5)
    assert [one["s"] for one in found] == [0, 1, 3, 6, 10]
    assert [one["i"] for one in found] == [0, 1, 2, 3, 4]
    assert [one["last"] for one in found] == [False] * 4 + [True]


def test_a_stream_in_a_stream_ends_once() -> None:
    steps = [
        (model("outer", "x", "y", count_up, decoupled=True), {"x": "n"}, {"y": "i"}),
        (model("plus", "x", "y", add_one), {"x": "i"}, {"y": "j"}),
        (model("inner", "x", "y", count_up, decoupled=True), {"x": "j"}, {"y": "k"}),
    ]
    found = ask(ensemble("n", "k", steps), n=3)
    assert [one["k"] for one in found] == [0, 0, 1, 0, 1, 2]
    assert [one["last"] for one in found] == [False] * 5 + [True]


def test_nothing_is_computed_ahead_and_closing_ends_every_step() -> None:
    events: list[Any] = []

    async def endless(tensors: Mapping[str, Tensor], memory: list[Any]) -> AsyncGenerator[InferResponse]:
        try:
            for index in range(1_000_000):
                events.append(index)
                yield InferResponse({"y": number("y", index)}, is_last=False)
        finally:
            events.append("closed")

    steps = [
        (model("endless", "x", "y", endless, decoupled=True), {"x": "n"}, {"y": "i"}),
        (model("sum", "x", "y", sum_so_far), {"x": "i"}, {"y": "s"}),
    ]
    asked = ensemble("n", "s", steps)

    async def read_three() -> None:
        responses = asked.infer(InferRequest("all", {"n": number("n", 1)}))
        for _ in range(3):
            await anext(responses)
        await responses.aclose()

    asyncio.run(read_three())
    assert events == [0, 1, 2, "closed"]
    assert asked.statistics.cancel.count == 1
    assert asked.statistics.success.count == 0


def test_one_answer_of_a_stream_is_refused_where_several_come() -> None:
    asked = model("count", "x", "y", count_up, decoupled=True)

    async def ask_once(n: int) -> InferResponse:
        return await single(asked.infer(InferRequest("count", {"x": number("x", n)})))

    assert asyncio.run(ask_once(1)).is_last
    with pytest.raises(RequestError, match="through a stream"):
        asyncio.run(ask_once(2))


def test_a_step_that_fails_fails_the_request_and_is_counted() -> None:
    async def fail(tensors: Mapping[str, Tensor], memory: list[Any]) -> AsyncGenerator[InferResponse]:
        raise RequestError("invalid", "no such number")
        yield

    asked = ensemble("n", "s", [(model("fail", "x", "y", fail), {"x": "n"}, {"y": "s"})])
    with pytest.raises(RequestError, match="no such number"):
        ask(asked, n=1)
    assert asked.statistics.fail.count == 1


def test_the_error_of_one_of_several_steps_is_the_ensembles() -> None:
    async def fail(tensors: Mapping[str, Tensor], memory: list[Any]) -> AsyncGenerator[InferResponse]:
        raise RequestError("not_found", "nothing here")
        yield

    ended: list[str] = []

    async def wait(tensors: Mapping[str, Tensor], memory: list[Any]) -> AsyncGenerator[InferResponse]:
        try:
            await asyncio.sleep(60)
            yield InferResponse({})
        finally:
            ended.append("waiting")

    one = model("one", "x", "y", wait)
    other = model("other", "x", "y", fail)
    both = ensemble("x", "a b", [(one, {"x": "x"}, {"y": "a"}), (other, {"x": "x"}, {"y": "b"})])
    with pytest.raises(RequestError, match="nothing here"):
        asyncio.run(both.one(InferRequest("all", {"x": number("x", 1)})))
    assert ended == ["waiting"]
