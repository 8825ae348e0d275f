"""What the engine gives back. No torch."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]  # an end token or a stop text; max_tokens or the context


@dataclass(frozen=True)
class Usage:
    """Tokens that an answer cost: those of its prompt, and its own, the end token included."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Logprob:
    """How likely the model held a token to be, as a natural logarithm; `top` has the likeliest ones, likeliest first.

    Of the model's own logits, before temperature, penalties and filters.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """A step of an answer. `text` may be empty while a character or a possible stop text is incomplete; the texts of
    all pieces joined are the answer, and so are the token ids. The last piece has a finish reason and the usage.

    `logprobs`: one for each token id where they were asked for, else empty. `others`: further answers, each whole, with
    the only piece of a beam search; their tokens are part of its usage. `prompt_logprobs`: with the first piece, where
    they were asked for: one for each token of the prompt, None for the first, which nothing is before.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[Logprob, ...] = ()
    others: tuple["Piece", ...] = ()
    prompt_logprobs: tuple[Logprob | None, ...] = ()


@dataclass(frozen=True)
class Output:
    """A whole answer. `token_ids` include the end token where there was one; `text` shows no special tokens.

    `others`: the further answers to the same prompt where several were asked for. `score`: of a beam search, the sum of
    the tokens' log-probabilities over their number to the power of length_penalty.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[Logprob, ...] = ()
    others: tuple["Output", ...] = ()
    score: float | None = None
    prompt_logprobs: tuple[Logprob | None, ...] = ()
