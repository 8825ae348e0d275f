"""A session of `LLM.session()`: turn after turn, each told only what is new."""

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from hanbit.engine.output import Output, Piece
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from hanbit.engine.sessions import Name, Session

if TYPE_CHECKING:
    from hanbit.engine.llm import LLM
    from hanbit.engine.prompts import Prompt


class Talk:
    """Also a context manager, which ends it. One turn at a time."""

    def __init__(self, llm: "LLM", name: Name, adapter: str | None) -> None:
        self._llm, self._name, self._adapter = llm, name, adapter
        self._session: Session | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of all turns that have ended: each prompt and its answer, end tokens included."""
        return () if self._session is None else tuple(self._session.tokens)

    def generate(self, prompt: "Prompt", sampling: SamplingParams | None = None) -> Output:
        """The answer to this turn's text or tokens behind all turns before. Raises GenerationError."""
        sequence = self._turn(prompt, sampling)
        for _ in self._llm.answer_turn(sequence):
            pass
        return sequence.output()

    def stream(self, prompt: "Prompt", sampling: SamplingParams | None = None) -> Iterator[Piece]:
        """As `generate`, piece by piece; the turn begins when the first is asked for. Closing the iterator before the
        last leaves the session as it was before the turn."""
        yield from self._llm.answer_turn(self._turn(prompt, sampling))

    def close(self) -> None:
        """It is over, and what the cache has of it is free; nothing if it is over already."""
        if self._session is not None:
            self._llm.sessions.end_if_open(self._name)

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: "type[BaseException] | BaseException | TracebackType | None") -> None:
        self.close()

    def _turn(self, prompt: "Prompt", sampling: SamplingParams | None) -> Sequence:
        is_first = not self.tokens  # also where a first turn was left: nothing stands before the next one
        sequence = self._llm.turn(
            self._llm.sessions, self._name, prompt, sampling, adapter=self._adapter, is_first=is_first
        )
        self._session = sequence.session
        return sequence
