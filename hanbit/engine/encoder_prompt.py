"""What an encoder reads for an answer. No torch."""

import hashlib
from array import array
from collections.abc import Sequence as Items
from functools import cached_property


class EncoderPrompt:
    """One object for an answer and all beams of its search: what is kept for it is kept once."""

    def __init__(self, tokens: Items[int]) -> None:
        self.tokens = tuple(map(int, tokens))

    @cached_property
    def root(self) -> bytes:
        """Answers to other tokens have other keys and values."""
        return hashlib.sha256(array("q", self.tokens).tobytes()).digest()
