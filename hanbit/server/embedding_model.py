"""A served model of embeddings as every protocol needs it: texts in, checked and encoded in a thread, vectors out."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hanbit.common.errors import EngineBusy, GenerationError
from hanbit.engine.embedder import Text
from hanbit.engine.embedding_service import EmbeddingService
from hanbit.server.errors import RequestError
from hanbit.server.statistics import Statistics, Tally


@dataclass(frozen=True)
class Embedded:
    """vectors: [texts, width] float32, on the CPU."""

    vectors: torch.Tensor
    num_tokens: int


@dataclass(frozen=True)
class EmbeddingModel:
    """`name`: what clients call it. `created`: Unix seconds. `statistics`: of the model that a request counts for."""

    name: str
    service: EmbeddingService
    created: int
    statistics: tuple[Statistics, ...] = ()

    async def embed(
        self, texts: Sequence[Text], normalize: bool | None = None, truncate_prompt_tokens: int | None = None
    ) -> Embedded:
        """As `Embedder.embed`. Raises GenerationError for the texts, EngineBusy; RequestError where the model fails or
        is being unloaded."""
        tally = Tally(self.statistics)
        try:
            found = await self._embedded(texts, normalize, truncate_prompt_tokens)
        except Exception as problem:
            tally.failed(problem)
            raise
        except BaseException:  # cancelled: nobody waits any more
            tally.left()
            raise
        tally.responded(True)
        return found

    async def _embedded(self, texts: Sequence[Text], normalize: bool | None, most: int | None) -> Embedded:
        embedder = self.service.embedder
        names = ["the text"] if len(texts) == 1 else [f"text {index}" for index in range(len(texts))]

        def encoded() -> list[list[int]]:
            return [embedder.encode(text, name, most) for name, text in zip(names, texts, strict=True)]

        tokens = await asyncio.to_thread(encoded)
        try:
            vectors = await self.service.vectors(tokens)
        except EngineBusy:
            raise
        except GenerationError as problem:  # the texts were checked before: no fault of the request
            raise RequestError("unavailable" if self.service.is_closed else "internal", str(problem)) from problem
        return Embedded(embedder.finished(vectors, normalize), sum(map(len, tokens)))
