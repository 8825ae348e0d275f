"""Texts to the ids that the tokenizers library gives, faster: what a text repeats is encoded once.

A corpus of 3 M tokens has 100,000 different words, with the blanks and signs before them. Each goes to the library when
it is first met; then it is a look-up, natively (native_words.py) or, without the native library, in a dict.

That is exact where the tokenizer first cuts texts by one of the patterns below, because a cut of ours is one of
theirs and none of them looks back: a word of letters ends before ASCII that is no letter; whatever is no whitespace
ends before a blank; of several blanks the last belongs to the word behind it. Other tokenizers (SentencePiece's, which
merge over spaces) get whole texts.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import tokenizers

from hanbit.kernels.library import Native
from hanbit.tokenizers.native_words import MOST_WORDS, NativeWords
from hanbit.tokenizers.train import WORDS

_KEPT_CHARACTERS = 1 << 21  # of the words that are remembered: about 250,000 of them, 60 MB

# Unicode's White_Space, which the library's \s is; Python's has four control characters more.
_BLANKS = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_LETTERS = r"A-Za-z\uac00-\ud7a3"
_SIGNS = r"!-/:-@\[-`{-~"

_INDENT = rf"[{_BLANKS}]+(?= [{_SIGNS}{_LETTERS}])"  # not before digits, which some cut off first
_END = r"(?=[\x00-@\[-`{-\x7f]|\Z)"  # of a word of letters: ASCII that is no letter, or nothing
_WORD = rf"[^{_BLANKS}{_LETTERS}]*+[{_LETTERS}]++{_END}"
_RUN = rf"[^{_BLANKS}]++"

# Both patterns stand in kernels/native/words.cpp once more; tests/tokenizers/test_words.py compares them.
# GPT-2's: whatever is no whitespace ends before any whitespace.
_BY_GPT2 = re.compile(rf"{_INDENT}|[{_BLANKS}]*+(?:{_WORD}|{_RUN})|[{_BLANKS}]+")
# The others: line breaks belong to the signs before them, so what is neither sign nor known letter takes the next line.
_BY_WORDS = re.compile(
    rf"{_INDENT}|[{_BLANKS}]*+(?:{_WORD}"
    rf"|{_RUN}(?:(?<=[{_SIGNS}])[\r\n]*+|(?<=[0-9{_LETTERS}])|(?=[ \t]|\Z))"
    rf"|{_RUN}(?:(?![ \t])[{_BLANKS}]++[^{_BLANKS}]*+)*+)|[{_BLANKS}]+"
)

_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_KNOWN_PATTERNS = {
    WORDS,
    _HEAD + r"\p{N}{1,3}" + _TAIL,  # Llama 3, and cl100k before it
    _HEAD + r"\p{N}" + _TAIL,  # Qwen2 and Qwen3
}


class Encoder:
    """Ids of many texts by one tokenizer, which reads special tokens as text. Threads may share it.

    kernels: None cuts and looks up in Python, which holds its lock meanwhile.
    """

    def __init__(self, core: tokenizers.Tokenizer, dtype: np.dtype, kernels: Native | None) -> None:
        self._core, self._dtype = core, dtype
        self._parts = parts_of(core)
        self._native = None
        if kernels is not None and self._parts.pattern is not None:
            by_gpt2 = self._parts.pattern is _BY_GPT2
            self._native = NativeWords(kernels.library, by_gpt2, partial(_ids_of, core), MOST_WORDS)
        self._known: dict[str, bytes] = {}
        self._characters = 0

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """For each text its ids [tokens], without those that a template adds."""
        if self._native is not None and texts:
            tokens, ends = self._native.encode(texts, list(map(self._parts.are_of, texts)))
            return np.split(tokens.astype(self._dtype), ends[:-1])
        parts = [self._parts(text) for text in texts]
        known = self._learned(set(chain.from_iterable(parts)))
        return [np.frombuffer(b"".join(map(known.__getitem__, of_text)), self._dtype) for of_text in parts]

    def _learned(self, parts: set[str]) -> dict[str, bytes]:
        """Ids of all of `parts`, and of others. Once full it begins anew; a thread may go on with the old one."""
        if self._characters > _KEPT_CHARACTERS:
            self._known, self._characters = {}, 0
        known = self._known
        new = [part for part in parts if part not in known]
        ids = _ids_of(self._core, new)
        content = np.fromiter(chain.from_iterable(ids), self._dtype).tobytes()
        ends = accumulate((len(of_part) * self._dtype.itemsize for of_part in ids), initial=0)
        for part, (begin, end) in zip(new, pairwise(ends), strict=True):
            known[part] = content[begin:end]
        self._characters += sum(map(len, new))
        return known


def _ids_of(core: tokenizers.Tokenizer, parts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in core.encode_batch_fast(parts, add_special_tokens=False)]


@dataclass(frozen=True)
class Parts:
    """Cuts a text into parts that a tokenizer encodes alone as it does in the text; the parts joined are the text."""

    pattern: re.Pattern[str] | None  # None: texts stay whole
    tag: re.Pattern[str] | None  # and so does a text with one of these

    def __call__(self, text: str) -> list[str]:
        return self.pattern.findall(text) if self.pattern is not None and self.are_of(text) else [text]

    def are_of(self, text: str) -> bool:
        """Is this text cut?"""
        return self.pattern is not None and (self.tag is None or not any(map(self.tag.search, _forms(text))))


def parts_of(core: tokenizers.Tokenizer) -> Parts:
    """What is known to be safe for `core`."""
    added = [token.content for token in core.get_added_tokens_decoder().values() if not token.special]
    tag = "|".join(re.escape(form) for token in added for form in _forms(token))
    return Parts(_pattern_of(core), re.compile(tag) if tag else None)


def _forms(text: str) -> set[str]:
    """As it is and, where that differs, as NFC has it: the library looks for added tokens in either."""
    return {text, unicodedata.normalize("NFC", text)}


def _pattern_of(core: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    if core.normalizer is not None and _state(core.normalizer) != {"type": "NFC"}:
        return None
    if core.pre_tokenizer is None or getattr(core.model, "dropout", None) is not None:
        return None
    step = _state(core.pre_tokenizer)
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    return _pattern_by(steps)


def _state(part: Any) -> dict[str, Any]:
    return json.loads(part.__getstate__())


def _pattern_by(steps: Sequence[dict[str, Any]]) -> re.Pattern[str] | None:
    """By the steps of a tokenizer.json's pre_tokenizer: one that cuts words, beside steps that cut them further."""
    if any(step["type"] == "ByteLevel" for step in steps[:-1]):
        return None  # what comes after it sees a letter in the place of a blank
    found = [pattern for step in steps if (pattern := _cuts_words(step)) is not None]
    is_known = all(_cuts_words(step) or _cuts_further(step) for step in steps)
    return found[0] if is_known and len(found) == 1 else None


def _cuts_words(step: dict[str, Any]) -> re.Pattern[str] | None:
    if step["type"] == "ByteLevel" and step["use_regex"] and not step["add_prefix_space"]:
        return _BY_GPT2
    is_split = step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]
    return _BY_WORDS if is_split and step["pattern"].get("Regex") in _KNOWN_PATTERNS else None


def _cuts_further(step: dict[str, Any]) -> bool:
    """Inside words alone."""
    plain_bytes = step["type"] == "ByteLevel" and not step["use_regex"] and not step["add_prefix_space"]
    return plain_bytes or step["type"] == "Digits"
