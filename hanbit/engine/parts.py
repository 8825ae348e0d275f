"""What the scheduler is asked and what it answers: requests, and the parts of them that a step feeds. No torch."""

from array import array
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from hanbit.common.errors import GenerationError
from hanbit.engine.blocks import Key


class Request(Protocol):
    """What a scheduler needs to know of a sequence (sequence.py)."""

    @property
    def tokens(self) -> Items[int]:
        """Prompt and answer so far; grows by the newest token when a step has fed all of them, or later."""

    @property
    def longest(self) -> int:
        """Tokens it has in the cache at most."""

    @property
    def priority(self) -> int:
        """Smaller ones come first."""

    @property
    def deadline(self) -> float | None:
        """In seconds of the scheduler's clock, when nobody waits for it any more."""

    @property
    def reads_all(self) -> bool:
        """Is something wanted of every token, so that none may be taken over from another?"""

    @property
    def num_read_apart(self) -> int:
        """Tokens that an encoder reads before the first of these is fed; they count in the step where it starts."""

    @property
    def root(self) -> Key:
        """What its keys and values depend on besides tokens: sequences with another root share no blocks."""


T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Limits:
    """`sequences` are worked on at the same time; `step_tokens` are fed in a step at most, and of prompts at most
    `patience` while an answer waits for its next token (a step feeds every answer's token in any case)."""

    sequences: int
    step_tokens: int = 1024
    patience: int = 1024


@dataclass(frozen=True)
class Part(Generic[T_co]):
    """Positions start..end of a request are to be fed. `blocks`: of its positions from 0 on, to be read and written.
    `draft`: tokens that may follow its own, to be fed behind them."""

    request: T_co
    start: int
    end: int
    blocks: "array[int]"
    draft: tuple[int, ...] = ()

    @property
    def last(self) -> int:
        """Behind the last position that is fed, the draft's included."""
        return self.end + len(self.draft)

    @property
    def num_rows(self) -> int:
        return self.last - self.start


@dataclass
class Counts:
    """Totals since the start. `cached_tokens` of the `read_tokens` were found in the cache and not computed."""

    preempted: int = 0
    read_tokens: int = 0
    cached_tokens: int = 0


def check_size(longest: int, num_tokens: int, name: str = "the prompt") -> None:
    """Raises GenerationError for what no amount of waiting makes fit."""
    if longest > num_tokens:
        raise GenerationError(
            f"{name} and its answer take {longest} tokens of the key-value cache, which holds {num_tokens}. "
            "Shorten it, lower max_tokens, or give the engine more: num_blocks, kv_cache_gb"
        )
