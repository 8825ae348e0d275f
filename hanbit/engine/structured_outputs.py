"""What form an answer is asked to have: JSON, a pattern, one of some texts, a grammar. Names are vLLM's. No torch."""

import json as json_format
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hanbit.common.errors import GrammarError
from hanbit.engine.tool_grammar import ToolCalls

# Characters of a definition: one of these takes seconds to compile, a longer one nobody knows how long
LONGEST = 65_536


@dataclass(frozen=True)
class StructuredOutputs:
    """Exactly one of the first six.

    json: a JSON schema, as an object or its text. json_object: any JSON object. regex: the whole answer matches it
    (https://docs.rs/regex/latest/regex/#syntax, without look-around). choice: the answer is one of these texts.
    grammar: context-free, in Lark's form (`start: ...`) or llama.cpp's (`root ::= ...`).
    tool_calls: text in which known tools may be called, or calls alone (tool_grammar.py).
    disable_any_whitespace: JSON without line breaks and spaces between its parts.

    Raises GrammarError if it is none of these or too large; what is wrong inside it shows when it is compiled.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool = False
    tool_calls: ToolCalls | None = None
    disable_any_whitespace: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "json", None if self.json is None else _schema(self.json))
        object.__setattr__(self, "choice", None if self.choice is None else _choices(self.choice))
        given = [field.name for field in fields(self)[:6] if getattr(self, field.name) not in (None, False)]
        if len(given) != 1:
            raise GrammarError(
                f"structured_outputs has {', '.join(given) or 'nothing'}: give one of json, regex, choice, grammar and "
                "json_object"
            )
        for name in ("regex", "grammar"):
            _check_text(name, getattr(self, name))
        for name in ("json_object", "disable_any_whitespace"):
            if not isinstance(getattr(self, name), bool):
                raise GrammarError(f"structured_outputs.{name}={getattr(self, name)!r:.60} must be true or false")

    @property
    def kind(self) -> str:
        """The field that is given."""
        return next(field.name for field in fields(self) if getattr(self, field.name) not in (None, False))


def _schema(schema: Any) -> str:
    """As text, in which equal schemas are equal."""
    if isinstance(schema, str):
        _check_text("json", schema)
        try:
            schema = json_format.loads(schema)
        except (ValueError, RecursionError) as problem:
            raise GrammarError(f"structured_outputs.json is not JSON: {problem}") from None
    if not isinstance(schema, Mapping | bool):
        raise GrammarError(f"structured_outputs.json={schema!r:.60} must be a JSON schema: an object")
    try:
        text = json_format.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as problem:
        raise GrammarError(f"structured_outputs.json is not JSON: {problem}") from None
    _check_text("json", text)
    return text


def _choices(choices: Any) -> tuple[str, ...]:
    right = isinstance(choices, Sequence) and not isinstance(choices, str) and len(choices) > 0
    if not right or not all(isinstance(text, str) and text for text in choices):
        raise GrammarError(f"structured_outputs.choice={choices!r:.60} must be a list of texts")
    _check_text("choice", "".join(choices))
    return tuple(choices)


def _check_text(name: str, text: Any) -> None:
    if text is not None and not isinstance(text, str):
        raise GrammarError(f"structured_outputs.{name}={text!r:.60} must be a text")
    if text is None:
        return
    if not 0 < len(text) <= LONGEST:
        raise GrammarError(
            f"structured_outputs.{name} has {len(text)} characters; from 1 to {LONGEST} are taken. Give a smaller one"
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise GrammarError(f"structured_outputs.{name} has half a surrogate pair, which is no text. Take it out")
    if name == "regex" and (len(text) - len(text.rstrip("\\"))) % 2:
        raise GrammarError("structured_outputs.regex ends with a backslash that nothing follows. Write \\\\ for one")
