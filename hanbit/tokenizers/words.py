"""Texts to the ids that the tokenizers library gives, faster: what a text repeats is encoded once.

A corpus of 3 M tokens has 100,000 different words, with the blanks and signs before them. Each goes to the library when
it is first met; then it is a look-up, which costs a tenth of the library's work (2 cores, SmolLM2's tokenizer: 1.2 to
2 times its tokens per second).

That is exact where the tokenizer first cuts texts by one of the patterns below, because a cut of ours is one of
theirs and none of them looks back: a word of letters ends before ASCII that is no letter; whatever is no whitespace
ends before a blank; of several blanks the last belongs to the word behind it. Other tokenizers (SentencePiece's, which
merge over spaces) get whole texts.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import tokenizers

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

# GPT-2's pattern: whatever is no whitespace ends before any whitespace.
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
    """Ids of many texts by one tokenizer, which reads special tokens as text. Threads may share it."""

    def __init__(self, core: tokenizers.Tokenizer, dtype: np.dtype) -> None:
        self._core, self._dtype = core, dtype
        self._parts = parts_of(core)
        self._known: dict[str, bytes] = {}
        self._characters = 0

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """For each text its ids [tokens], without those that a template adds."""
        parts = [self._parts(text) for text in texts]
        known = self._learned(set(chain.from_iterable(parts)))
        return [np.frombuffer(b"".join(map(known.__getitem__, of_text)), self._dtype) for of_text in parts]

    def _learned(self, parts: set[str]) -> dict[str, bytes]:
        """Ids of all of `parts`, and of others. Once full it begins anew; a thread may go on with the old one."""
        if self._characters > _KEPT_CHARACTERS:
            self._known, self._characters = {}, 0
        known = self._known
        new = [part for part in parts if part not in known]
        for part, encoding in zip(new, self._core.encode_batch_fast(new, add_special_tokens=False), strict=True):
            known[part] = np.array(encoding.ids, self._dtype).tobytes()
        self._characters += sum(map(len, new))
        return known


def parts_of(core: tokenizers.Tokenizer) -> Callable[[str], list[str]]:
    """What cuts a text into parts that `core` encodes alone as it does in the text; the parts joined are the text."""
    pattern = _pattern_of(core)
    if pattern is None:
        return _whole
    added = [token.content for token in core.get_added_tokens_decoder().values() if not token.special]
    if not added:
        return pattern.findall
    tag = re.compile("|".join(re.escape(form) for token in added for form in _forms(token)))
    return lambda text: _whole(text) if any(map(tag.search, _forms(text))) else pattern.findall(text)


def _forms(text: str) -> set[str]:
    """As it is and, where that differs, as NFC has it: the library looks for added tokens in either."""
    return {text, unicodedata.normalize("NFC", text)}


def _whole(text: str) -> list[str]:
    return [text]


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
