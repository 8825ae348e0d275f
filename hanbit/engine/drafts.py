"""Which tokens are tried in a step beyond the next one: who guesses, how many are worth it, and how often it was right.

A guess changes no answer. Its tokens are fed behind the newest one, and from the logits behind each place the token is
chosen as without it, by the sequence's own random numbers; as long as that is the guessed token, the logits behind it
are right, too, and the next token is chosen in the same step (batch.py). No torch.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from hanbit.engine.prompt_lookup import PromptLookup
from hanbit.engine.sequence import Sequence

log = logging.getLogger(__name__)

_FIRST_LENGTH = 4
_LONGEST_REST = 32  # steps: a sequence whose guesses are always wrong feeds one row in so many for nothing


@dataclass(frozen=True)
class SpeculationCounts:
    """Totals since the start: drafts that were tried, their tokens, those of them that were right; and how many drafts
    were right at their first place, their second, and so on."""

    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: tuple[int, ...] = ()


class Guesser(Protocol):
    """Whoever guesses."""

    def guess(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, list[int]]:
        """For each sequence tokens that may follow its own, at most as many as are wanted, or none."""

    def forget(self, sequence: Sequence) -> None:
        """It has ended; nothing if it is not known."""


class PromptGuesser:
    """By what each sequence's own text has said before."""

    def __init__(self, longest: int, shortest: int) -> None:
        self._longest, self._shortest = longest, shortest
        self._lookups: dict[Sequence, PromptLookup] = {}

    def guess(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, list[int]]:
        return {sequence: self._lookup(sequence).guess(sequence.tokens, count) for sequence, count in wanted.items()}

    def forget(self, sequence: Sequence) -> None:
        self._lookups.pop(sequence, None)

    def _lookup(self, sequence: Sequence) -> PromptLookup:
        if sequence not in self._lookups:
            self._lookups[sequence] = PromptLookup(self._longest, self._shortest)
        return self._lookups[sequence]


class DraftLength:
    """How many tokens are tried for one sequence: more while guesses are right, fewer when not, none for a while when
    nothing of them was, and for longer each time."""

    def __init__(self, most: int) -> None:
        self._most, self._length = most, min(most, _FIRST_LENGTH)
        self._rest, self._next_rest = 0, 1

    def next(self) -> int:
        """Of the next step; called once for each."""
        if self._rest > 0:
            self._rest -= 1
            return 0
        return self._length

    def judge(self, tried: int, right: int) -> None:
        if right == 0:
            self._length = max(1, self._length // 2)
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, _LONGEST_REST)
            return
        self._next_rest = 1
        self._length = max(self._length, min(2 * tried, self._most)) if right == tried else right + 1


class Drafts:
    """Of all sequences of a batch. `crowd`: so many growing together are not guessed for."""

    def __init__(self, guesser: Guesser, most: int, crowd: int | None = None) -> None:
        self._guesser, self._most, self._crowd = guesser, most, crowd
        self._lengths: dict[Sequence, DraftLength] = {}
        self._has_failed = False
        self.counts = SpeculationCounts(accepted_by_position=(0,) * most)

    def of(self, sequences: Collection[Sequence]) -> Mapping[Sequence, list[int]]:
        """Tokens to be tried for each of these, whose next token comes from the next step."""
        if self._crowd is not None and len(sequences) >= self._crowd:
            return {}
        wanted: dict[Sequence, int] = {}
        for sequence in sequences:
            length = self._lengths.setdefault(sequence, DraftLength(self._most)).next()
            length = min(length, sequence.longest - len(sequence.tokens))  # the last token of an answer is never fed
            if length > 0:
                wanted[sequence] = length
        try:
            return self._guesser.guess(wanted) if wanted and not self._has_failed else {}
        except Exception:  # an answer needs no guess
            log.exception("guessing tokens failed; answers go on without it")
            self._has_failed = True
            return {}

    def judge(self, sequence: Sequence, tried: int, right: int) -> None:
        """Of so many tokens that were tried the first `right` were chosen."""
        self._lengths[sequence].judge(tried, right)
        counts = self.counts
        self.counts = replace(
            counts,
            drafts=counts.drafts + 1,
            draft_tokens=counts.draft_tokens + tried,
            accepted_tokens=counts.accepted_tokens + right,
            accepted_by_position=tuple(n + (place < right) for place, n in enumerate(counts.accepted_by_position)),
        )

    def forget(self, sequence: Sequence) -> None:
        """It has ended, or nobody waits for it."""
        self._lengths.pop(sequence, None)
        self._guesser.forget(sequence)
