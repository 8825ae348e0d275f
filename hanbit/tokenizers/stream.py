"""Ids in, printable text out, as they come: never half a character, and in sum the same text as decoding at the end.

A character may be spread over several tokens (a Hangul syllable is three bytes, an emoji four), so text that ends in
the replacement character is held back until the next id completes it. Each decode starts a few ids back, at the last
point where the text was whole, because some decoders treat the first token of a text differently.
"""

import copy
import re

from hanbit.tokenizers.tokenizer import Tokenizer

_INCOMPLETE = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")  # byte fallback decodes a run of these as a whole


class TextStream:
    """One answer being spoken. `push` each id, then `finish` once."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._ids: list[int] = []  # since the whole point before the last one
        self._spoken = 0  # how many of `_ids` have been given out

    def copy(self) -> "TextStream":
        """Where this one is now; they go on apart."""
        other = copy.copy(self)
        other._ids = list(self._ids)
        return other

    def push(self, id: int) -> str:
        """The text that this id completes; empty while a character is incomplete."""
        self._ids.append(id)
        if _BYTE_TOKEN.fullmatch(self._tokenizer.token_of(id) or ""):
            return ""
        text = self._new_text()
        if text.endswith(_INCOMPLETE) or not text:
            return ""
        self._ids = self._ids[self._spoken :]
        self._spoken = len(self._ids)
        return text

    def finish(self) -> str:
        """What is still held back. After an answer cut inside a character this is U+FFFD, as in a full decode."""
        text = self._new_text()
        self._ids, self._spoken = [], 0
        return text

    def _new_text(self) -> str:
        before = self._decode(self._ids[: self._spoken])
        return self._decode(self._ids)[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special_tokens)
