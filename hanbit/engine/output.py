"""What the engine gives back. No torch."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]  # an end token or a stop text; max_tokens or the context


@dataclass(frozen=True)
class Piece:
    """A step of an answer. `text` may be empty while a character or a possible stop text is incomplete; the texts of
    all pieces joined are the answer, and so are the token ids. The last piece has a finish reason."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Output:
    """A whole answer. `token_ids` include the end token where there was one; `text` shows no special tokens."""

    text: str
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...]
    finish_reason: FinishReason
