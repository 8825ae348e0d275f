"""Which tokens may come next so that an answer keeps the form it was asked to have (structured_outputs.py). No torch.

The library `llguidance` does the work: a definition becomes a matcher that walks along with an answer. Definitions are
strangers' texts, so they are compiled outside the engine's thread and one at a time, and both compiling and each step
have limits in the library, past which an answer ends with GrammarError and the others go on.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from hanbit.common.errors import GrammarError
from hanbit.engine.structured_outputs import StructuredOutputs
from hanbit.engine.tool_grammar import lark_of
from hanbit.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:  # 0.3 s, for those who ask for a form
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

# The library follows rules that follow one another by recursion: 4,000 in a row are too many for a thread's stack.
_MOST_RULES = 500
_MOST_KEPT = 64  # compiled definitions
_WHITESPACE = "[ \\n\\t]{0,20}"  # between the parts of JSON; without an end some models write nothing else


class Grammar:
    """One answer's form: `allowed`, choose one of them, `accept` it, until it is complete."""

    def __init__(self, matcher: "LLMatcher", vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    @property
    def is_complete(self) -> bool:
        """Nothing can follow any more."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self) -> np.ndarray:
        """Which tokens may come next, bool [vocabulary]: end tokens where the answer may end. Raises GrammarError."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Raises GrammarError if the token is none of the allowed."""
        self._matcher.consume_token(token)
        self._check()

    def copy(self) -> "Grammar":
        """Where this one is now; they go on apart."""
        return Grammar(self._matcher.deep_copy(), self._vocabulary)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"structured_outputs: {_first_line(self._matcher.get_error())}. Make it simpler")


class Grammars:
    """Compiled forms for one tokenizer and a model of `vocabulary` tokens. Safe between threads."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end_ids: Collection[int]) -> None:
        self._tokenizer, self._vocabulary, self._end_ids = tokenizer, vocabulary, sorted(end_ids)
        self._words: LLTokenizer | None = None
        self._kept: OrderedDict[StructuredOutputs, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, form: StructuredOutputs) -> bool:
        """Is it compiled? Then `start` takes no time."""
        return form in self._kept

    def start(self, form: StructuredOutputs) -> Grammar:
        """At an answer's beginning. Raises GrammarError, with the library's reason, if there can be none."""
        with self._lock:
            if form not in self._kept:
                self._kept[form] = self._compiled(form)
            self._kept.move_to_end(form)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return self._kept[form].copy()

    def _compiled(self, form: StructuredOutputs) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(verbose_errors=False)
        self._words = self._words or self._all_words()
        matcher = LLMatcher(self._words, _definition(form, self._tokenizer), log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarError(f"structured_outputs.{form.kind}: {_first_line(matcher.get_error())}")
        grammar = Grammar(matcher, self._vocabulary)
        if not grammar.allowed().any():  # also done here because the first step is the slowest
            raise GrammarError(f"structured_outputs.{form.kind}: no text has this form")
        return grammar

    def _all_words(self) -> "LLTokenizer":
        from llguidance import LLTokenizer

        try:
            return LLTokenizer(self._tokenizer.core.to_str(), n_vocab=self._vocabulary, eos_token=self._end_ids or None)
        except ValueError as problem:
            raise GrammarError(
                f"structured_outputs: forms cannot be kept with {self._tokenizer.source}: {_first_line(str(problem))}"
            ) from None


def _definition(form: StructuredOutputs, tokenizer: Tokenizer) -> str:
    from llguidance import LLMatcher, grammar_from

    if (calls := form.tool_calls) is not None:
        return lark_of(calls, tokenizer.special_id(calls.format.trigger), _WHITESPACE)
    if form.json_object or form.json is not None:
        return _of_json(form)
    if form.regex is not None:
        return LLMatcher.grammar_from_regex(form.regex)
    if form.choice is not None:
        texts = (json.dumps(text, ensure_ascii=False) for text in form.choice)
        return LLMatcher.grammar_from_lark(f"start: {' | '.join(texts)}")
    assert form.grammar is not None
    num_rules = form.grammar.count(":") - form.grammar.count("::")  # Lark writes one, llama.cpp two
    if num_rules > _MOST_RULES:
        raise GrammarError(
            f"structured_outputs.grammar has {num_rules} rules or so; {_MOST_RULES} are taken. Give fewer"
        )
    try:
        return grammar_from("grammar", form.grammar)
    except (ValueError, RecursionError) as problem:
        raise GrammarError(f"structured_outputs.grammar: {_first_line(str(problem))}") from None


def _of_json(form: StructuredOutputs) -> str:
    from llguidance import LLMatcher

    space: JsonCompileOptions = (
        {"whitespace_flexible": False} if form.disable_any_whitespace else {"whitespace_pattern": _WHITESPACE}
    )
    schema = '{"type":"object"}' if form.json is None else str(form.json)  # it is a text since it was checked
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides=space)
    except ValueError as problem:  # nested more than 128 deep
        raise GrammarError(f"structured_outputs.json: {_first_line(str(problem))}") from None


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].rstrip(".")[:300]
