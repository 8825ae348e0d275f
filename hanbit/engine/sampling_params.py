"""What a caller may ask of an answer; checked when it is made, so that nothing wrong reaches the engine. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hanbit.common.errors import GenerationError
from hanbit.engine.rules import check, is_whole
from hanbit.engine.structured_outputs import StructuredOutputs

MOST_LOGPROBS = 20  # as OpenAI has it
MOST_BEAMS = 32
MOST_CHOICES = 128  # answers to one prompt
MOST_BAD_WORDS = 1024
LONGEST_BAD_WORD = 1024  # characters or tokens


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when an answer ends. Names and meanings are those of vLLM and OpenAI.

    temperature: 0 takes the likeliest token always; otherwise logits are divided by it.
    top_k: only the k likeliest tokens; 0 (or -1) means all.
    top_p: only the smallest set of likeliest tokens whose probabilities sum to at least this.
    top_p_decay: below 1, top_p is multiplied by this after every token of the answer, down to `top_p_min`, and is
        itself again after a token of `top_p_reset_ids` (factual nucleus, Lee et al., 2022; FasterTransformer's names).
    min_p: only tokens at least this share as likely as the likeliest.
    repetition_penalty: logits of tokens that prompt or answer have are divided by it where positive, else multiplied
        (Keskar et al., 2019, CTRL); 1 changes nothing.
    presence_penalty: taken off the logit of every token that the answer already has.
    frequency_penalty: taken off such a token's logit once for every time it is there.
    logit_bias: added to the logits of these token ids; -100 forbids one, as good as.
    bad_words: texts or lists of token ids that do not come: the last token of one is not chosen where prompt and answer
        end with its others. A text stands for its own tokens, with and without a space before it.
    seed: the same seed gives the same answer, whatever else is being answered; None draws one.
    max_tokens: most tokens of the answer; None means as many as the context holds.
    min_tokens: the model's own end token is not chosen before the answer has as many, and what the first so many say
        is no part of a stop text.
    stop: texts before which the answer ends.
    ignore_eos: go on after the model's own end token (for measurements).
    structured_outputs: what form the answer has (structured_outputs.py); it ends where the form is complete, before
        min_tokens too if nothing else can follow.
    logprobs: how many of the likeliest tokens are told at each place, beside the chosen one's; None tells nothing.
    prompt_logprobs: the same of the prompt's tokens, from the second on; max_tokens may be 0 then, for nothing else.
    n: how many answers are given to a prompt.
    num_beams: above 1, nothing is drawn (temperature, top-k and the like do not count): so many likeliest ways to go on
        are followed, and the n best answers given; `length_penalty`: a score is divided by the answer's tokens to the
        power of this; `early_stopping`: True ends with the first num_beams answers, False when the best way looks worse
        than them, "never" when it must be. As transformers has them.
    best_of: how many are made for it, of which those n are given that are likeliest a token; None makes n.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    top_p_decay: float = 1.0
    top_p_min: float = 1e-6
    top_p_reset_ids: Sequence[int] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: Sequence[str | Sequence[int]] = ()
    seed: int | None = None
    max_tokens: int | None = 256
    min_tokens: int = 0
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    structured_outputs: StructuredOutputs | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    best_of: int | None = None

    def __post_init__(self) -> None:
        right = _is_finite(self.temperature) and self.temperature >= 0
        check("temperature", self.temperature, right, "0 (greedy) or more")
        check("top_p", self.top_p, _is_number(self.top_p) and 0 < self.top_p <= 1, "above 0 and at most 1")
        right = _is_number(self.top_p_decay) and 0 < self.top_p_decay <= 1
        check("top_p_decay", self.top_p_decay, right, "above 0 and at most 1, which changes nothing")
        most = 1 if self.top_p_decay == 1 else self.top_p
        right = _is_number(self.top_p_min) and 0 < self.top_p_min <= most
        check("top_p_min", self.top_p_min, right, f"above 0 and at most top_p={most}")
        ids = (self.top_p_reset_ids,) if is_whole(self.top_p_reset_ids, 0) else self.top_p_reset_ids
        right = isinstance(ids, Sequence) and all(is_whole(id, 0) for id in ids)
        check("top_p_reset_ids", ids, right, "a token id or a list of them")
        object.__setattr__(self, "top_p_reset_ids", tuple(ids))
        check("min_p", self.min_p, _is_number(self.min_p) and 0 <= self.min_p <= 1, "from 0 to 1")
        check("top_k", self.top_k, is_whole(self.top_k, -1), "a whole number, 0 or -1 for all tokens")
        check("seed", self.seed, self.seed is None or is_whole(self.seed, 0), "a whole number from 0")
        least = 1 if self.prompt_logprobs is None else 0
        right = self.max_tokens is None or is_whole(self.max_tokens, least)
        check("max_tokens", self.max_tokens, right, f"a whole number from {least}")
        check("min_tokens", self.min_tokens, is_whole(self.min_tokens, 0), "a whole number from 0")
        right = _is_finite(self.repetition_penalty) and 1e-3 <= self.repetition_penalty <= 1e3
        check("repetition_penalty", self.repetition_penalty, right, "from 0.001 to 1000; 1 changes nothing")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            check(name, value, _is_finite(value) and -2 <= value <= 2, "from -2 to 2")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            right = value is None or (is_whole(value, 0) and value <= MOST_LOGPROBS)
            check(name, value, right, f"a whole number from 0 to {MOST_LOGPROBS}")
        right = isinstance(self.structured_outputs, StructuredOutputs | None)
        check("structured_outputs", self.structured_outputs, right, "StructuredOutputs")
        check("n", self.n, is_whole(self.n, 1) and self.n <= MOST_CHOICES, f"a whole number from 1 to {MOST_CHOICES}")
        self._check_beams()
        right = self.best_of is None or (is_whole(self.best_of, self.n) and self.best_of <= MOST_CHOICES)
        check("best_of", self.best_of, right, f"a whole number from n={self.n} to {MOST_CHOICES}")
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        object.__setattr__(self, "bad_words", _bad_words(self.bad_words))
        object.__setattr__(self, "stop", _stops(self.stop))
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)

    def _check_beams(self) -> None:
        right = is_whole(self.num_beams, 1) and self.num_beams <= MOST_BEAMS
        check("num_beams", self.num_beams, right, f"a whole number from 1 to {MOST_BEAMS}")
        right = _is_finite(self.length_penalty) and -8 <= self.length_penalty <= 8
        check("length_penalty", self.length_penalty, right, "from -8 to 8")
        right = isinstance(self.early_stopping, bool) or self.early_stopping == "never"
        check("early_stopping", self.early_stopping, right, 'true, false or "never"')
        if self.num_beams > 1:
            check("n", self.n, self.n <= self.num_beams, f"at most num_beams={self.num_beams}")
            check("best_of", self.best_of, self.best_of is None, "left out beside num_beams")
            right = self.prompt_logprobs is None
            check("prompt_logprobs", self.prompt_logprobs, right, "left out beside num_beams")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def next_top_p(self, top_p: float, token: int) -> float:
        """That of the token after this one, which was drawn with `top_p`."""
        if self.top_p_decay == 1 or token in self.top_p_reset_ids:
            return self.top_p
        return max(top_p * self.top_p_decay, self.top_p_min)

    @property
    def has_penalties(self) -> bool:
        return self.presence_penalty != 0 or self.frequency_penalty != 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _biases(biases: Any) -> dict[int, float]:
    check("logit_bias", biases, isinstance(biases, Mapping), "token ids with a number each")
    for id, bias in biases.items():
        right = is_whole(id, 0) and _is_finite(bias) and -100 <= bias <= 100
        check("logit_bias", {id: bias}, right, "token ids with a number from -100 to 100 each")
    return dict(biases)


def _bad_words(words: Any) -> tuple[str | tuple[int, ...], ...]:
    """A single text is meant as a list of one."""
    words = (words,) if isinstance(words, str) else words
    rule = f"a list of at most {MOST_BAD_WORDS} texts or lists of token ids, of 1 to {LONGEST_BAD_WORD} each"
    right = isinstance(words, Sequence) and len(words) <= MOST_BAD_WORDS
    check("bad_words", words, right, rule)
    for word in words:
        right = isinstance(word, str) or (isinstance(word, Sequence) and all(is_whole(id, 0) for id in word))
        check("bad_words", word, right and 0 < len(word) <= LONGEST_BAD_WORD, rule)
    return tuple(word if isinstance(word, str) else tuple(word) for word in words)


def _stops(stop: Any) -> tuple[str, ...]:
    """A single text is meant as a list of one, and None is vLLM's word for none."""
    stops = () if stop is None else (stop,) if isinstance(stop, str) else stop
    check("stop", stops, isinstance(stops, Sequence), "a text or a list of texts")
    for text in stops:
        if not isinstance(text, str) or not text:
            raise GenerationError(f"stop={text!r} must be a text of at least one character, or a list of such")
    return tuple(stops)
