"""Answers that may or must call tools, as a grammar: a call is always a known tool's, with arguments of its schema.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md#tool-calling: free text up to a trigger is a lazy
lexeme, or ends with the trigger's own token.
"""

import json
from dataclasses import dataclass
from typing import Literal

from hanbit.common.errors import GrammarError
from hanbit.tokenizers.tools import ToolFormat

_MOST_CHARACTERS = 262_144  # of all schemas: several tools are one definition


@dataclass(frozen=True)
class Tool:
    """`schema`: of the arguments, JSON as text."""

    name: str
    schema: str


@dataclass(frozen=True)
class ToolCalls:
    """`choice`: auto, text with any number of calls; required, calls alone. `parallel`: more than one call."""

    tools: tuple[Tool, ...]
    format: ToolFormat
    choice: Literal["auto", "required"] = "auto"
    parallel: bool = True

    def __post_init__(self) -> None:
        size = sum(len(tool.name) + len(tool.schema) for tool in self.tools)
        if not 0 < size <= _MOST_CHARACTERS:
            raise GrammarError(
                f"structured_outputs.tool_calls: {len(self.tools)} tools of {size} characters; from 1 to "
                f"{_MOST_CHARACTERS} are taken. Give fewer"
            )
        if self.choice == "auto" and not self.format.trigger:
            raise GrammarError(f"structured_outputs.tool_calls: calls of {self.format.name} have no mark to begin with")


def lark_of(calls: ToolCalls, id: int | None, whitespace: str) -> str:
    """`id`: of a trigger that is a special token; None where it is text. `whitespace`: between the parts of JSON."""
    format = calls.format
    names = [f"call_{index}" for index in range(len(calls.tools))]
    lines = [f"one: {' | '.join(names)}"]
    for name, tool in zip(names, calls.tools, strict=True):
        before, behind = format.call(tool.name)
        lines.append(f"{name}: {_text(before)} %json {_with_whitespace(tool.schema, whitespace)} {_text(behind)}")
    more = f"({_text(format.separator)} one)*" if format.separator and calls.parallel else ""
    lines.append(f"calls: {_text(format.opening)} one {more} {_text(format.closing)}")
    if calls.choice == "auto":
        lines += _free(format.trigger, id, "*" if calls.parallel else "?")
    else:
        trigger = f"<[{id}]>" if id is not None else _text(format.trigger)
        repeats = format.trigger and not format.separator and calls.parallel
        lines += [f"block: {trigger} calls", 'start: block ("\\n" block)*' if repeats else "start: block"]
    return "\n".join(["%llguidance {}", *lines])


def _free(trigger: str, id: int | None, often: str) -> list[str]:
    text = ["start: block" + often + " TEXT", "TEXT: /(.|\\n)*/"]
    if id is not None:
        return [*text, f"block: TEXT <[{id}]> calls"]
    return [*text, "block: heading calls", f"heading[lazy]: TEXT {_text(trigger)}"]


def _text(text: str) -> str:
    return json.dumps(text) if text else ""


def _with_whitespace(schema: str, whitespace: str) -> str:
    found = json.loads(schema)
    if isinstance(found, dict):
        found = {**found, "x-guidance": {"whitespace_pattern": whitespace}}
    return json.dumps(found)
