"""Many callers of one model of embeddings: each gets its own vectors, waits its turn, may leave, is told of the end."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hanbit import Embedder
from hanbit.common.errors import EngineBusy, GenerationError
from hanbit.engine.embedding_service import EmbeddingService
from tests.engine.bert_folders import TEXTS, write_bert_folder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder(write_bert_folder(tmp_path_factory.mktemp("bert")), device="cpu", max_num_batched_tokens=60)


@pytest.fixture
def held(embedder: Embedder) -> Iterator["Held"]:
    found = Held(embedder)
    yield found
    found.go.set()
    found.service.close()


class Held:
    """A service whose batches wait until they may go; `taken`: the texts of each."""

    def __init__(self, embedder: Embedder) -> None:
        self.go, self.taken, self._embedder = threading.Event(), [], embedder
        self.max_num_batched_tokens = embedder.max_num_batched_tokens
        stand_in: Any = self
        self.service = EmbeddingService(stand_in, max_waiting=3)

    def vectors(self, texts: list[list[int]]) -> torch.Tensor:
        self.taken.append(texts)
        assert self.go.wait(10)
        if any(text == [1, 1, 1] for text in texts):
            raise ValueError("a text that fails")
        return self._embedder.vectors(texts)


def test_callers_at_once_get_the_vectors_that_each_gets_alone(embedder: Embedder) -> None:
    tokens = [embedder.encode(text) for text in TEXTS]
    lists = [[tokens[(start + step) % 5] for step in range(1 + start % 4)] for start in range(12)]

    async def together(service: EmbeddingService) -> list[torch.Tensor]:
        return await asyncio.gather(*(service.vectors(texts) for texts in lists))

    service = EmbeddingService(embedder)
    found = asyncio.run(together(service))
    assert service.num_open == 0
    service.close()
    for texts, vectors in zip(lists, found, strict=True):
        alone = torch.cat([embedder.vectors([text]) for text in texts])
        torch.testing.assert_close(vectors, alone, rtol=0, atol=1e-5)


def test_one_text_does_not_wait_for_a_list_of_many(held: Held) -> None:
    async def ask() -> None:
        first = asyncio.create_task(held.service.vectors([[2, 3]]))
        await taken(held, 1)
        many = asyncio.create_task(held.service.vectors([[2, place % 50, 3] for place in range(100)]))
        one = asyncio.create_task(held.service.vectors([[2, 9, 9, 3]]))
        await asyncio.sleep(0)
        held.go.set()
        await one
        assert not many.done()
        await asyncio.gather(first, many)

    asyncio.run(ask())
    assert [2, 9, 9, 3] in held.taken[1]
    assert all(sum(map(len, texts)) <= 60 for texts in held.taken)


def test_who_leaves_takes_what_is_not_begun_along(held: Held) -> None:
    async def ask() -> None:
        first = asyncio.create_task(held.service.vectors([[2, 3]]))
        await taken(held, 1)
        left = asyncio.create_task(held.service.vectors([[2, 7, 3]] * 50))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        held.go.set()
        await first
        await held.service.vectors([[2, 8, 3]])

    asyncio.run(ask())
    assert held.taken == [[[2, 3]], [[2, 8, 3]]]
    counts = held.service.counts()
    assert (counts.running, counts.waiting, counts.finished, counts.cancelled, counts.failed) == (0, 0, 2, 1, 0)
    assert counts.prompt_tokens == 2 + 150 + 3


def test_too_many_are_sent_away_and_a_failure_is_its_own_callers(held: Held) -> None:
    async def ask() -> None:
        first = asyncio.create_task(held.service.vectors([[2, 3]]))
        await taken(held, 1)
        others = [asyncio.create_task(held.service.vectors([text])) for text in ([2, 5, 3], [1, 1, 1], [2, 6, 3])]
        await asyncio.sleep(0)
        assert (held.service.counts().running, held.service.counts().waiting) == (1, 3)
        with pytest.raises(EngineBusy, match="4 requests wait"):
            await held.service.vectors([[2, 3]])
        held.go.set()
        found = await asyncio.gather(first, *others, return_exceptions=True)
        assert [type(one) for one in found] == [torch.Tensor, torch.Tensor, ValueError, torch.Tensor]

    asyncio.run(ask())


def test_closing_tells_who_waits(held: Held) -> None:
    async def ask() -> None:
        first = asyncio.create_task(held.service.vectors([[2, 3]]))
        await taken(held, 1)
        second = asyncio.create_task(held.service.vectors([[2, 4, 3]]))
        await asyncio.sleep(0)
        threading.Timer(0.05, held.go.set).start()
        await asyncio.to_thread(held.service.close)
        assert (await first).shape == (1, 48)
        with pytest.raises(GenerationError, match="has been closed"):
            await second
        with pytest.raises(GenerationError, match="has been closed"):
            await held.service.vectors([[2, 3]])

    asyncio.run(ask())


async def taken(held: Held, count: int) -> None:
    async with asyncio.timeout(10):
        while len(held.taken) < count:
            await asyncio.sleep(0.001)
