"""Many callers on asyncio, one model on its thread: answers, cancelling, refusing, failing, closing."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hanbit.common.errors import EngineBusy, EngineClosed, GenerationError
from hanbit.engine.batch import Batch
from hanbit.engine.llm import LLM
from hanbit.engine.output import Piece, Usage
from hanbit.engine.parts import Part
from hanbit.engine.runner import Runner
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.scheduler import Scheduler
from hanbit.engine.sequence import Sequence
from hanbit.engine.service import Answer, Service
from tests.engine.test_llm import prompts_of

LONG = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)


@pytest.fixture
def service(llm: LLM) -> Iterator[Service]:
    service = Service(llm, max_sequences=3, max_waiting=2)
    yield service
    service.close()


async def pieces_of(answer: Answer) -> list[Piece]:
    return [piece async for piece in answer]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(limited())


def slow_steps(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.01) -> list[int]:
    """Each step takes at least so long; how many sequences every step had is in the list."""
    feed, rows = Runner.feed, []

    def slow(self: Runner, parts: list[Part[Sequence]]) -> object:
        time.sleep(seconds)
        rows.append(len(parts))
        return feed(self, parts)

    monkeypatch.setattr(Runner, "feed", slow)
    return rows


def test_callers_at_once_get_what_each_gets_alone(service: Service) -> None:
    prompts = prompts_of(20, 1, 9, 33, 2)
    params = [SamplingParams(seed=5, max_tokens=count, ignore_eos=True) for count in (9, 2, 14, 1, 20)]

    async def work() -> None:
        answers = [service.stream(prompt, one) for prompt, one in zip(prompts, params, strict=True)]
        found = await asyncio.gather(*map(pieces_of, answers))
        for prompt, one, pieces in zip(prompts, params, found, strict=True):
            assert pieces == list(service.llm.stream(prompt, one))
            assert pieces[-1].usage == Usage(len(prompt), one.max_tokens or 0)

    run(work)
    counts = service.counts()
    assert (counts.running, counts.waiting, counts.finished, counts.cancelled) == (0, 0, 5, 0)
    assert (counts.prompt_tokens, counts.generated_tokens) == (65, 46)


def test_a_prompt_joins_while_another_is_answered(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = slow_steps(monkeypatch)

    async def work() -> None:
        first = service.stream("The", LONG)
        await anext(first)
        second = await pieces_of(service.stream("안녕", SamplingParams(temperature=0, max_tokens=5)))
        assert service.running == 1
        assert second == list(service.llm.stream("안녕", SamplingParams(temperature=0, max_tokens=5)))
        assert len(await pieces_of(first)) == 39

    run(work)
    assert 2 in rows


@pytest.mark.parametrize("way", ["aclose", "cancel", "drop"])
def test_an_answer_that_nobody_awaits_is_not_worked_on(
    service: Service, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    rows = slow_steps(monkeypatch)

    async def work() -> None:
        answer = service.stream("The", LONG)
        task = asyncio.create_task(pieces_of(answer))
        await until(lambda: len(rows) >= 3)
        if way == "aclose":
            await answer.aclose()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        steps = len(rows)
        await until(lambda: service.running == 0)
        await asyncio.sleep(0.05)
        assert len(rows) <= steps + 2
        assert service.counts().cancelled == 1

    async def dropped() -> None:
        service.stream("The", LONG)  # never awaited
        await until(lambda: service.counts().cancelled == 1)
        await until(lambda: service.running == 0)

    run(dropped if way == "drop" else work)


def test_cancelling_one_of_three_leaves_the_others_as_they_were(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_steps(monkeypatch, 0.002)
    prompts = prompts_of(4, 11, 7)

    async def work() -> None:
        answers = [service.stream(prompt, LONG) for prompt in prompts]
        tasks = [asyncio.create_task(pieces_of(answer)) for answer in answers[1:]]
        for _ in range(3):
            await anext(answers[0])
        await answers[0].aclose()
        assert await pieces_of(answers[0]) == []
        for prompt, task in zip(prompts[1:], tasks, strict=True):
            assert await task == list(service.llm.stream(prompt, LONG))

    run(work)


def test_what_cannot_be_served_is_refused_at_once(service: Service) -> None:
    async def work() -> None:
        with pytest.raises(GenerationError, match="the prompt has 70 tokens"):
            service.stream(prompts_of(70)[0])
        with pytest.raises(GenerationError, match="adapter='polite' is not here"):
            service.stream("The", adapter="polite")
        assert service.waiting == 0

    run(work)


def test_more_than_may_wait_are_refused_until_one_has_ended(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_steps(monkeypatch)

    async def work() -> None:
        answers = [service.stream("The", LONG) for _ in range(5)]
        await until(lambda: service.running == 3)
        assert service.waiting == 2
        with pytest.raises(EngineBusy, match="2 prompts wait"):
            service.stream("The", LONG)
        await answers[4].aclose()
        answers.append(service.stream("The", LONG))
        found = await asyncio.gather(*map(pieces_of, answers[:4]))
        assert len({tuple(pieces) for pieces in found}) == 1

    run(work)


def test_a_step_that_fails_ends_its_answers_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Runner.feed

    def fails_on_nine(self: Runner, parts: list[Part[Sequence]]) -> object:
        if any(len(part.request.prompt) == 9 for part in parts):
            raise RuntimeError("out of luck")
        return feed(self, parts)

    monkeypatch.setattr(Runner, "feed", fails_on_nine)

    async def work() -> None:
        good = asyncio.create_task(pieces_of(service.stream("The", LONG)))
        with pytest.raises(GenerationError, match="RuntimeError: out of luck"):
            await pieces_of(service.stream(prompts_of(9)[0], LONG))
        assert await good == list(service.llm.stream("The", LONG))
        assert service.counts().failed == 1

    run(work)


def test_what_goes_wrong_in_choosing_a_token_ends_that_answer_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = Sequence.accept

    def fails_on_nine(self: Sequence, *token: Any) -> Piece:
        if len(self.prompt) == 9 and len(self.answer) == 3:
            raise RuntimeError("out of luck")
        return accept(self, *token)

    first, unlucky, last = prompts_of(5, 9, 7)
    expected = [list(service.llm.stream(prompt, LONG)) for prompt in (first, last)]
    monkeypatch.setattr(Sequence, "accept", fails_on_nine)

    async def work() -> None:
        good = [asyncio.create_task(pieces_of(service.stream(first, LONG)))]
        bad = asyncio.create_task(pieces_of(service.stream(unlucky, LONG)))
        good.append(asyncio.create_task(pieces_of(service.stream(last, LONG))))
        with pytest.raises(GenerationError, match="RuntimeError: out of luck"):
            await bad
        assert [await one for one in good] == expected
        assert service.counts().failed == 1

    run(work)
    assert service.cache_counts.blocks_used == 0


def test_a_failure_between_answers_fails_those_that_are_there_and_no_later_one(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(service.llm.stream("The", LONG))
    plan, failed = Scheduler.plan, []

    def fails_once(self: Scheduler[Sequence]) -> list[Part[Sequence]]:
        if self.num_running + self.num_waiting == 4 and not failed:
            failed.append(1)
            raise RuntimeError("lost")
        return plan(self)

    monkeypatch.setattr(Scheduler, "plan", fails_once)

    async def work() -> None:
        answers = [asyncio.create_task(pieces_of(service.stream(text, LONG))) for text in ("The", "quick", "fox", "a")]
        for answer in answers:
            with pytest.raises(GenerationError, match="RuntimeError: lost"):
                await answer
        assert not service.is_closed
        assert await pieces_of(service.stream("The", LONG)) == expected

    run(work)
    assert service.cache_counts.blocks_used == 0


def test_an_engine_that_cannot_begin_anew_says_that_it_is_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("lost")

    monkeypatch.setattr(Scheduler, "plan", fails)
    monkeypatch.setattr(Batch, "anew", fails)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    async def work() -> None:
        with pytest.raises(GenerationError, match="lost"):
            await pieces_of(service.stream("The", LONG))
        await until(lambda: service.is_closed)
        with pytest.raises(EngineClosed, match="closed"):
            service.stream("The", LONG)

    run(work)


def test_closing_tells_those_who_wait_and_may_be_said_twice(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_steps(monkeypatch)
    threads = [thread for thread in threading.enumerate() if thread.name == "hanbit-engine"]  # others' services, too

    async def work() -> None:
        answers = [asyncio.create_task(pieces_of(service.stream("The", LONG))) for _ in range(4)]
        await until(lambda: service.running == 3)
        service.close()
        service.close()
        for answer in answers:
            with pytest.raises(GenerationError, match="closed"):
                await answer
        with pytest.raises(GenerationError, match="closed"):
            service.stream("The")

    run(work)
    assert [thread.is_alive() for thread in threads].count(False) == 1


def test_a_loop_that_ends_takes_its_answers_along(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = slow_steps(monkeypatch)
    kept = []

    async def leave() -> None:
        kept.append(service.stream("The", LONG))
        await anext(kept[0])

    run(leave)
    run(lambda: until(lambda: service.running == 0))
    assert len(rows) < 39


def test_an_idle_service_uses_no_processor_time(service: Service) -> None:
    run(lambda: pieces_of(service.stream("The", SamplingParams(max_tokens=3))))  # type: ignore[arg-type, return-value]
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


LEAVES_WITHOUT_CLOSING = """
import asyncio, sys, torch
from hanbit.engine.llm import LLM
from hanbit.engine.runner import Runner
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.service import Service

matrix, feed = torch.ones(300, 300), Runner.feed

def in_torch_nearly_always(*arguments):
    for _ in range(100):
        matrix @ matrix
    return feed(*arguments)

Runner.feed = in_torch_nearly_always

async def leave():
    kept.append(service.stream("The", SamplingParams(max_tokens=40, ignore_eos=True)))
    await anext(kept[0])

kept, service = [], Service(LLM(sys.argv[1]))
asyncio.run(leave())
print("left in the midst of an answer")
"""


@pytest.mark.parametrize("kernels", ["0", ""], ids=["torch", "native"])
def test_a_process_that_ends_without_closing_ends_well(folder: Path, kernels: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_WITHOUT_CLOSING, folder],
        env={**os.environ, "HANBIT_NATIVE": kernels},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout == "left in the midst of an answer\n"
