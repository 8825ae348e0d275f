"""The scheduler over made-up instances: who is busy, who is told what, in which order answers leave."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from hanbit.common.errors import DeadlinePassed
from hanbit.repository.config import parse_config
from hanbit.server.batching.job import MOST_RESPONSES, Job
from hanbit.server.batching.scheduler import Scheduler
from hanbit.server.errors import RequestError
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.tensors import Tensor


class Made:
    """Keeps its batches until the test ends them; `at_once`: ends them by itself, within `execute`."""

    def __init__(self, at_once: bool = False) -> None:
        self.is_ready = True
        self.at_once = at_once
        self.batches: list[list[Job]] = []
        self.cancelled: list[Job] = []
        self.deserted = 0
        self.closed = False
        self._done: Callable[[], None] = lambda: None
        self._changed: Callable[[], None] = lambda: None

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def execute(self, jobs: Sequence[Job], done: Callable[[], None]) -> None:
        self.batches.append(list(jobs))
        self._done = done
        if self.at_once:
            self.finish()

    def finish(self) -> None:
        for job in self.batches[-1]:
            job.send(InferResponse(dict(job.request.inputs)))
        self._done()

    def done(self) -> None:
        self._done()

    def go(self, is_ready: bool) -> None:
        self.is_ready = is_ready
        self._changed()

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job)

    def nobody_waits(self) -> None:
        self.deserted += 1

    async def close(self) -> None:
        self.closed = True

    def ids(self) -> list[list[str]]:
        return [[job.request.id for job in batch] for batch in self.batches]


def scheduler(instances: Sequence[Made], text: str = "", max_batch_size: int = 8) -> Scheduler[Made]:
    return Scheduler(parse_config(f'name: "m" backend: "made" max_batch_size: {max_batch_size} {text}', "m"), instances)


def request(id: str, rows: int = 1, width: int = 1, **parameters: Any) -> InferRequest:
    return InferRequest(
        "m", {"x": Tensor("x", "INT32", (rows, width), np.zeros((rows, width)))}, "1", id, (), parameters
    )


async def ask(model: Scheduler[Made], id: str, **more: Any) -> list[InferResponse]:
    return [one async for one in model.infer(request(id, **more))]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))  # type: ignore[arg-type]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_free_instance_answers_without_a_turn_of_the_loop() -> None:
    async def scenario() -> None:
        model = scheduler([Made(at_once=True)])
        asking = ask(model, "a")
        with pytest.raises(StopIteration) as ended:
            asking.send(None)
        assert ended.value.value[0].outputs["x"].shape == (1, 1)

    run(scenario)


def test_each_instance_has_one_batch_at_a_time_and_the_rest_waits() -> None:
    async def scenario() -> None:
        first, second = Made(), Made()
        model = scheduler([first, second])
        asking = [asyncio.create_task(ask(model, id)) for id in "abcde"]
        await turns()
        assert (first.ids(), second.ids(), model.num_waiting) == ([["a"]], [["b"]], 3)
        second.finish()
        assert second.ids() == [["b"], ["c"]]
        for one in (first, second, first):
            one.finish()
        first.finish() if first.ids()[-1] == ["e"] else second.finish()
        await asyncio.gather(*asking)
        assert model.num_running == model.num_waiting == 0

    run(scenario)


def test_what_gathers_behind_a_busy_instance_goes_as_one_batch() -> None:
    async def scenario() -> None:
        made = Made()
        model = scheduler([made], "dynamic_batching {}")
        asking = [
            asyncio.create_task(ask(model, id, width=width)) for id, width in zip("abcd", (1, 1, 1, 2), strict=True)
        ]
        await turns()
        made.finish()
        made.finish()
        made.finish()
        await asyncio.gather(*asking)
        assert made.ids() == [["a"], ["b", "c"], ["d"]]

    run(scenario)


def test_ragged_inputs_join_though_their_dims_differ() -> None:
    async def scenario() -> None:
        made = Made()
        text = 'dynamic_batching {} input { name: "x" data_type: TYPE_INT32 dims: -1 allow_ragged_batch: true }'
        model = scheduler([made], text)
        asking = [asyncio.create_task(ask(model, id, width=width)) for id, width in (("a", 1), ("b", 2), ("c", 3))]
        await turns()
        made.finish()
        made.finish()
        await asyncio.gather(*asking)
        assert made.ids() == [["a"], ["b", "c"]]

    run(scenario)


def test_a_batch_waits_for_its_delay_by_itself() -> None:
    async def scenario() -> None:
        made = Made(at_once=True)
        model = scheduler([made], "dynamic_batching { max_queue_delay_microseconds: 20000 }")
        began = asyncio.get_running_loop().time()
        await asyncio.gather(ask(model, "a"), ask(model, "b"))
        assert made.ids() == [["a", "b"]]
        assert asyncio.get_running_loop().time() - began > 0.019

    run(scenario)


def test_a_full_queue_refuses_and_says_come_again() -> None:
    async def scenario() -> None:
        made = Made()
        model = scheduler([made], "dynamic_batching { default_queue_policy { max_queue_size: 1 } }")
        asking = [asyncio.create_task(ask(model, id)) for id in "ab"]
        await turns()
        with pytest.raises(RequestError, match="1 requests wait already") as raised:
            await ask(model, "c")
        assert raised.value.kind == "busy"
        made.finish()
        made.finish()
        await asyncio.gather(*asking)

    run(scenario)


def test_who_leaves_while_waiting_is_never_executed() -> None:
    async def scenario() -> None:
        made = Made()
        model = scheduler([made])
        asking = [asyncio.create_task(ask(model, id)) for id in "abc"]
        await turns()
        asking[1].cancel()
        await turns()
        assert model.num_waiting == 1
        made.finish()
        made.finish()
        await asyncio.gather(asking[0], asking[2])
        assert made.ids() == [["a"], ["c"]]
        assert made.cancelled == []

    run(scenario)


def test_who_leaves_while_running_is_told_to_the_instance_which_stays_busy() -> None:
    async def scenario() -> None:
        made = Made()
        model = scheduler([made], "dynamic_batching {}")
        asking = [asyncio.create_task(ask(model, id)) for id in "abc"]
        await turns()
        made.finish()
        await turns()
        asking[1].cancel()
        await turns()
        assert [job.request.id for job in made.cancelled] == ["b"]
        assert made.deserted == 0
        asking[2].cancel()
        await turns()
        assert made.deserted == 1
        waiting = asyncio.create_task(ask(model, "d"))
        await turns()
        assert made.ids() == [["a"], ["b", "c"]]
        made.finish()
        made.finish()
        await waiting
        assert model.num_running == 0

    run(scenario)


def test_a_timeout_ends_the_wait_and_the_work() -> None:
    async def scenario() -> None:
        made = Made()
        model = scheduler([made])
        asking = [asyncio.create_task(ask(model, id, timeout=20_000)) for id in "ab"]
        for one in asking:
            with pytest.raises(DeadlinePassed):
                await one
        assert made.ids() == [["a"]]
        assert (len(made.cancelled), made.deserted, model.num_waiting) == (1, 1, 0)
        made.finish()

    run(scenario)


def test_a_queue_policy_refuses_who_waited_too_long() -> None:
    async def scenario() -> None:
        made = Made()
        policy = "default_timeout_microseconds: 20000 allow_timeout_override: true"
        model = scheduler([made], f"dynamic_batching {{ default_queue_policy {{ {policy} }} }}")
        running = asyncio.create_task(ask(model, "a", timeout=10_000))  # for the queue, where it did not wait
        waiting = [asyncio.create_task(ask(model, id)) for id in "bc"]
        for one in waiting:
            with pytest.raises(RequestError, match="no room") as raised:
                await one
            assert raised.value.kind == "busy"
        made.finish()
        await running
        assert made.ids() == [["a"]]

    run(scenario)


def test_priorities_go_before() -> None:
    async def scenario() -> None:
        made = Made(at_once=False)
        model = scheduler([made], "dynamic_batching { priority_levels: 2 default_priority_level: 2 }", 1)
        asking = [asyncio.create_task(ask(model, id, priority=level)) for id, level in (("a", 0), ("b", 2), ("c", 1))]
        await turns()
        for _ in range(3):
            made.finish()
        await asyncio.gather(*asking)
        assert made.ids() == [["a"], ["c"], ["b"]]

    run(scenario)


def test_with_preserved_ordering_answers_leave_as_requests_came() -> None:
    async def scenario(text: str) -> list[str]:
        first, second = Made(), Made()
        model = scheduler([first, second], f"dynamic_batching {{ {text} }}", 1)
        left = []

        async def asked(id: str) -> None:
            await ask(model, id)
            left.append(id)

        asking = [asyncio.create_task(asked(id)) for id in "abc"]
        await turns()
        second.finish()
        await turns()
        second.finish()
        await turns()
        first.finish()
        await asyncio.gather(*asking)
        return left

    assert asyncio.run(scenario("")) == ["b", "c", "a"]
    assert asyncio.run(scenario("preserve_ordering: true")) == ["a", "b", "c"]


def test_in_preserved_ordering_one_who_leaves_holds_nobody() -> None:
    async def scenario() -> None:
        first, second = Made(), Made()
        model = scheduler([first, second], "dynamic_batching { preserve_ordering: true }", 1)
        asking = [asyncio.create_task(ask(model, id)) for id in "ab"]
        await turns()
        second.finish()
        await turns()
        assert not asking[1].done()
        asking[0].cancel()
        await asking[1]

    run(scenario)


def test_a_decoupled_job_goes_on_after_its_batch() -> None:
    async def scenario() -> None:
        made = Made()
        model = scheduler([made])
        first = asyncio.create_task(ask(model, "a"))
        await turns()
        job = made.batches[0][0]
        made.done()
        second = asyncio.create_task(ask(model, "b"))
        await turns()
        assert made.ids() == [["a"], ["b"]]
        job.send(InferResponse({}, is_last=False))
        job.send(InferResponse({}))
        made.finish()
        assert [one.is_last for one in await first] == [False, True]
        await second
        assert model.num_running == 0

    run(scenario)


def test_a_reader_who_is_too_slow_loses_its_answer_and_nothing_grows() -> None:
    async def scenario() -> None:
        made = Made()
        model = scheduler([made])
        answers = model.infer(request("a"))
        asking = asyncio.ensure_future(anext(answers))
        await turns()
        job = made.batches[0][0]
        for _ in range(MOST_RESPONSES + 5):
            job.send(InferResponse({}, is_last=False))
        await asking

        async def read_all() -> None:
            async for _ in answers:
                pass

        with pytest.raises(RequestError, match="more slowly"):
            await read_all()

    run(scenario)


def test_who_waits_for_a_model_that_goes_away_is_told_so_at_once() -> None:
    async def scenario() -> None:
        first, second = Made(), Made()
        model = scheduler([first, second])
        asking = [asyncio.create_task(ask(model, id)) for id in "abc"]
        await turns()
        first.go(False)
        await turns()
        assert not asking[2].done()
        second.go(False)
        with pytest.raises(RequestError, match="starting again") as raised:
            await asking[2]
        assert raised.value.kind == "unavailable"
        with pytest.raises(RequestError, match="starting again"):
            await ask(model, "d")
        assert not model.is_ready
        first.finish()
        first.go(True)
        asking.append(asyncio.create_task(ask(model, "e")))
        await turns()
        first.finish()
        second.finish()
        await asyncio.gather(asking[0], asking[1], asking[3])
        await asyncio.to_thread(model.close)
        assert first.closed
        with pytest.raises(RequestError, match="being unloaded"):
            await ask(model, "f")

    run(scenario)


def test_an_instance_that_raises_fails_its_batch_and_takes_the_next() -> None:
    class Raises(Made):
        def execute(self, jobs: Sequence[Job], done: Callable[[], None]) -> None:
            if not self.batches:
                self.batches.append(list(jobs))
                raise ValueError("nobody thought of this")
            super().execute(jobs, done)

    async def scenario() -> None:
        model = scheduler([Raises(at_once=True)])
        with pytest.raises(ValueError, match="nobody thought"):
            await ask(model, "a")
        await ask(model, "b")
        assert (await model.one(request("c"))).outputs["x"].shape == (1, 1)

    run(scenario)


def test_inputs_of_different_numbers_of_rows_are_refused() -> None:
    async def scenario() -> None:
        model = scheduler([Made()])
        one, two = (Tensor(name, "INT32", (rows,), np.zeros(rows)) for name, rows in (("x", 1), ("y", 2)))
        with pytest.raises(RequestError, match="'y' has another number of rows than the first, 1"):
            await anext(model.infer(InferRequest("m", {"x": one, "y": two})))

    run(scenario)
