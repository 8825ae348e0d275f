"""What a caller may ask of an answer; checked when it is made, so that nothing wrong reaches the engine. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hanbit.common.errors import GenerationError


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when an answer ends. Names and meanings are those of vLLM and OpenAI.

    temperature: 0 takes the likeliest token always; otherwise logits are divided by it.
    top_k: only the k likeliest tokens; 0 (or -1) means all.
    top_p: only the smallest set of likeliest tokens whose probabilities sum to at least this.
    min_p: only tokens at least this share as likely as the likeliest.
    seed: the same seed gives the same answer, whatever else is being answered; None draws one.
    max_tokens: most tokens of the answer; None means as many as the context holds.
    stop: texts before which the answer ends.
    ignore_eos: go on after the model's own end token (for measurements).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 256
    stop: Sequence[str] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        right = _is_number(self.temperature) and math.isfinite(self.temperature) and self.temperature >= 0
        _check("temperature", self.temperature, right, "0 (greedy) or more")
        _check("top_p", self.top_p, _is_number(self.top_p) and 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("min_p", self.min_p, _is_number(self.min_p) and 0 <= self.min_p <= 1, "from 0 to 1")
        _check("top_k", self.top_k, _is_whole(self.top_k, -1), "a whole number, 0 or -1 for all tokens")
        _check("seed", self.seed, self.seed is None or _is_whole(self.seed, 0), "a whole number from 0")
        right = self.max_tokens is None or _is_whole(self.max_tokens, 1)
        _check("max_tokens", self.max_tokens, right, "a whole number from 1")
        object.__setattr__(self, "stop", _stops(self.stop))
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _check(name: str, value: Any, is_right: bool, rule: str) -> None:
    if not is_right:
        raise GenerationError(f"{name}={value!r} must be {rule}")


def _stops(stop: Any) -> tuple[str, ...]:
    """A single text is meant as a list of one."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    for text in stops:
        if not isinstance(text, str) or not text:
            raise GenerationError(f"stop={text!r} must be a text of at least one character, or a list of such")
    return stops
