"""A served model as chat and completion protocols need it: the engine behind it, and which adapter it speaks with."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from hanbit.engine.output import Piece
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.service import Answer, Service, Turn
from hanbit.server.statistics import Statistics, Tally


@dataclass(frozen=True)
class LanguageModel:
    """`name`: what clients call it. `adapter`: as the service knows it. `created`: Unix seconds. `statistics`: of the
    models that an answer counts for."""

    name: str
    service: Service
    adapter: str | None
    created: int
    statistics: tuple[Statistics, ...] = ()

    def stream(
        self, prompt: Sequence[int], params: SamplingParams, priority: int = 0, turn: Turn | None = None
    ) -> "CountedAnswer":
        """Raises GenerationError, EngineBusy as the service does."""
        tally = Tally(self.statistics)
        try:
            answer = self.service.stream(prompt, params, adapter=self.adapter, priority=priority, turn=turn)
            return CountedAnswer(answer, tally)
        except Exception as problem:
            tally.failed(problem)
            raise


class CountedAnswer(AsyncIterator[Piece]):
    """The pieces of one answer as they come, each a response of the model."""

    def __init__(self, answer: Answer, tally: Tally) -> None:
        self._answer, self._tally = answer, tally

    async def __anext__(self) -> Piece:
        try:
            piece = await anext(self._answer)
        except StopAsyncIteration:
            raise
        except Exception as problem:
            self._tally.failed(problem)
            raise
        self._tally.responded(piece.finish_reason is not None)
        return piece

    async def aclose(self) -> None:
        """Ends the work on it."""
        self._tally.left()
        await self._answer.aclose()
