"""A model's answer, as it comes, taken apart into what it says and the tools that it calls."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hanbit.tokenizers.tools import ToolFormat


@dataclass(frozen=True)
class Said:
    text: str


@dataclass(frozen=True)
class Call:
    """A call begins."""

    name: str


@dataclass(frozen=True)
class Arguments:
    """More of the JSON text of the last call's arguments."""

    text: str


Event = Said | Call | Arguments

_NAME = r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*'
_BETWEEN = " \n\r\t,;"  # calls of one block


class CallReader:
    """Of one answer: `push` its text, `finish` once. What looks like a call and is none is said as text."""

    def __init__(self, format: ToolFormat) -> None:
        self._format = format
        self._head = re.compile(_NAME + rf'"{format.arguments}"\s*:\s*(?=\{{)')
        self._held = ""
        self._is_inside = not format.trigger  # a block
        self._depth = 0  # of braces in the arguments that are being read
        self._is_text = self._is_escaped = False  # within a JSON string there, behind a backslash
        self._is_open = False  # a call whose arguments are over
        self._has_called = False
        self._blanks = ""

    @property
    def has_called(self) -> bool:
        return self._has_called

    def push(self, text: str) -> list[Event]:
        self._held += text
        return list(self._events())

    def finish(self) -> list[Event]:
        """What was held back."""
        rest, self._held = self._held, ""
        if self._is_inside and (self._depth or self._is_ending(rest)):
            return []
        said = self._say((self._format.trigger if self._is_inside else "") + rest)
        return said if self.has_called or not self._blanks else [*said, Said(self._blanks)]

    def _is_ending(self, rest: str) -> bool:
        """Is it what stands behind the last call of a block, or nothing?"""
        return self.has_called and not rest.strip(_BETWEEN + "}]").removesuffix(self._format.closing.strip())

    def _events(self) -> Iterator[Event]:
        before = None
        while before != (before := (len(self._held), self._is_inside, self._depth)):
            if self._depth:
                yield from self._arguments()
            elif self._is_inside:
                yield from self._block()
            else:
                yield from self._outside()

    def _outside(self) -> Iterator[Event]:
        trigger = self._format.trigger
        before, found, behind = self._held.partition(trigger) if trigger else (self._held, "", "")
        if found:
            self._is_inside, self._held = True, behind
            yield from self._say(before)
        else:
            sizes = range(min(len(trigger) - 1, len(before)), 0, -1)
            end = len(before) - next((size for size in sizes if trigger.startswith(before[-size:])), 0)
            self._held = before[end:]
            yield from self._say(before[:end])

    def _block(self) -> Iterator[Event]:
        """Between calls: the next one's head, or the block's end."""
        if self._is_open and self._held.lstrip().startswith("}"):
            self._is_open, self._held = False, self._held.lstrip()[1:]
        rest = self._held.lstrip(_BETWEEN + "[")
        closing = self._format.closing.strip()
        if closing and rest.startswith(closing):
            self._is_inside, self._held = False, rest[len(closing) :]
        elif head := self._head.match(rest):
            self._held = rest[head.end() :]
            yield self._call(json.loads(head.group(1)))
            yield from self._arguments()
        elif rest.startswith("{"):
            yield from self._otherwise(rest)
        elif rest and not closing.startswith(rest):
            yield from self._no_call()

    def _call(self, name: str) -> Call:
        self._has_called, self._blanks = True, ""
        return Call(name)

    def _otherwise(self, rest: str) -> Iterator[Event]:
        """A call whose keys stand in another order is known when it is whole."""
        try:
            value, end = json.JSONDecoder().raw_decode(rest)
        except (ValueError, RecursionError):
            return  # not whole yet
        name, arguments = value.get("name"), value.get(self._format.arguments)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            yield from self._no_call()
            return
        self._held = rest[end:]
        yield self._call(name)
        yield Arguments(json.dumps(arguments, ensure_ascii=False))

    def _no_call(self) -> Iterator[Event]:
        text, self._held, self._is_inside = self._format.trigger + self._held, "", False
        yield from self._say(text)

    def _arguments(self) -> Iterator[Event]:
        """Up to the brace that closes them, and the one of the call."""
        for place, letter in enumerate(self._held):
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_text:
                self._is_escaped, self._is_text = letter == "\\", letter != '"'
            elif letter == '"':
                self._is_text = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    text, self._held = self._held[: place + 1], self._held[place + 1 :]
                    self._is_open = True
                    yield Arguments(text)
                    return
        text, self._held = self._held, ""
        if text:
            yield Arguments(text)

    def _say(self, text: str) -> list[Event]:
        """Blanks wait for what follows them: around calls they are no text."""
        text = self._blanks + text
        said = text.rstrip()
        self._blanks = text[len(said) :]
        return [Said(said)] if said else []
