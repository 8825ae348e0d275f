"""Who is answered first on a server with one seat, by OpenAI's and by KServe's field, and both in one order."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hanbit.server.options import EngineOptions
from tests.server.asking import PROMPT, Http
from tests.server.served import Served, serving

LONG = 300  # tokens: an answer ends long after the one before, whichever client's thread wakes first


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    with serving(repository, engines=EngineOptions(max_sequences=1)) as found:
        yield found


def test_smaller_priorities_are_answered_first_over_all_protocols(served: Served) -> None:
    http, ended = Http(served.http), []

    def ask(name: str, path: str, body: dict[str, Any]) -> None:
        assert http.ask(path, {**body, "ignore_eos": True}).status == 200
        ended.append(name)

    def kserve(name: str, tokens: int, **more: int) -> tuple[str, str, dict[str, Any]]:
        return name, "/v2/models/small/generate", {"text_input": PROMPT, "max_tokens": tokens, **more}

    def openai(name: str, **more: int) -> tuple[str, str, dict[str, Any]]:
        return name, "/v1/completions", {"model": "small", "prompt": PROMPT, "max_tokens": LONG, **more}

    (service,) = (model.service for name, model in served.catalogue.language_models().items() if name == "small")
    waiting = [
        kserve("kserve 200", LONG, priority=200),
        openai("openai 50", priority=50),
        openai("openai 0"),
        kserve("kserve 1", LONG, priority=1),
        openai("openai -120", priority=-120),
    ]
    with ThreadPoolExecutor(8) as pool:
        tasks = [pool.submit(ask, *kserve("the running one", 1500, priority=1))]
        _wait(lambda: service.counts().running == 1)
        # the running one keeps its seat before the first two; the third of these takes it, and it comes again
        for count, asked in enumerate(waiting[:4], 1):
            tasks.append(pool.submit(ask, *asked))
            _wait(lambda count=count: service.counts().waiting == count)  # type: ignore[misc]
        tasks.append(pool.submit(ask, *waiting[4]))
        for task in tasks:
            task.result()
    assert ended == ["openai -120", "the running one", "kserve 1", "openai 0", "openai 50", "kserve 200"]


@pytest.mark.parametrize("value", [-1, True, "high", 1.5])
def test_a_priority_that_is_none_is_a_400(value: Any, served: Served) -> None:
    body = {"text_input": PROMPT, "max_tokens": 3, "priority": value}
    found = Http(served.http).ask("/v2/models/small/generate", body)
    assert found.status == 400
    assert "priority=" in found.json()["error"]


def _wait(is_so: Any) -> None:
    until = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.002)
