"""Guess the next tokens by where the newest ones have been before, and what followed them there. No torch.

Saxena, Prompt Lookup Decoding (2023); the speculation that vLLM calls ngram. The places of all short runs are kept as
tokens arrive, so that a guess costs the same at the end of a long text as at its beginning.
"""

from collections.abc import Sequence


class PromptLookup:
    """For one text that grows at its end. `longest`, `shortest`: how many of its newest tokens are looked for."""

    def __init__(self, longest: int, shortest: int) -> None:
        assert 0 < shortest <= longest
        self._longest, self._shortest = longest, shortest
        self._behind: dict[tuple[int, ...], int] = {}  # by run: the place behind where it was last
        self._num_known = 0

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """`count` tokens that may follow: those behind the newest place of the longest run that ends the text, or none
        where no run of it has been before. `tokens` begins with those of the call before."""
        self._learn(tokens)
        for length in range(min(self._longest, len(tokens) - 1), self._shortest - 1, -1):
            place = self._behind.get(tuple(tokens[-length:]))
            if place is not None:
                return _repeated(tokens, place, count)
        return []

    def _learn(self, tokens: Sequence[int]) -> None:
        """Runs that something follows; the one at the very end would only find itself."""
        for end in range(self._num_known, len(tokens)):
            for length in range(self._shortest, min(self._longest, end) + 1):
                self._behind[tuple(tokens[end - length : end])] = end
        self._num_known = len(tokens)


def _repeated(tokens: Sequence[int], place: int, count: int) -> list[int]:
    """What is behind `place`, again and again: a text that repeats itself goes on doing so past its end."""
    period = len(tokens) - place
    return [tokens[place + index % period] for index in range(count)]
