"""Which tools a chat may call: from the fields of a request to the engine's form and the way its model writes calls."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanbit.common.errors import GrammarError
from hanbit.engine.output import Piece
from hanbit.engine.tool_grammar import Tool, ToolCalls
from hanbit.server.frontends.openai.errors import Refusal
from hanbit.server.frontends.openai.forms import form_of, refused
from hanbit.server.frontends.openai.requests import ChatRequest, ChosenTool, Function
from hanbit.server.frontends.openai.tool_calls import Call, CallReader, Said
from hanbit.tokenizers.tokenizer import Tokenizer
from hanbit.tokenizers.tools import ToolFormat, format_of


@dataclass(frozen=True)
class ToolUse:
    """`form`: None where only the text says that a tool is called; `is_named`: the client has chosen the one tool."""

    functions: tuple[Function, ...]
    format: ToolFormat
    form: ToolCalls | None
    is_named: bool
    special_id: int | None  # of the format's trigger, where it is a token that no text shows

    def described(self) -> list[dict[str, object]]:
        """As chat templates take them."""
        return [{"type": "function", "function": one.model_dump(exclude_none=True)} for one in self.functions]

    def text_of(self, piece: Piece, tokenizer: Tokenizer) -> str:
        """With the trigger in it, if it is a token of its own."""
        id = self.special_id
        if id is None or id not in piece.token_ids:
            return piece.text
        if len(piece.token_ids) == 1:
            return self.format.trigger + piece.text
        parts: list[list[int]] = [[]]
        for token in piece.token_ids:
            if token == id:
                parts.append([])
            else:
                parts[-1].append(token)
        return self.format.trigger.join(tokenizer.decode(part, skip_special_tokens=True) for part in parts)

    def finish_reason(self, reason: str | None, has_called: bool) -> str | None:
        """OpenAI's: a call that was chosen by the client is no reason of the model's."""
        return "tool_calls" if reason == "stop" and has_called and not self.is_named else reason


def tools_of(asked: ChatRequest, tokenizer: Tokenizer) -> ToolUse | None:
    """None where no tool may be called. Raises Refusal."""
    choice = asked.tool_choice
    if not asked.tools and choice not in ("none", "auto"):
        raise Refusal("tool_choice asks for a call, and there are no tools", "tool_choice", "invalid_value")
    if not asked.tools or choice == "none":
        return None
    if form_of(asked) is not None:
        raise Refusal(
            "tools and a form of the answer both say what it looks like: leave one out, or set tool_choice to none",
            "tools",
            "invalid_value",
        )
    functions = tuple(tool.function for tool in asked.tools)
    _check_names(functions)
    chosen = [_named(functions, choice.function.name)] if isinstance(choice, ChosenTool) else functions
    format = format_of(tokenizer.chat_template)
    if format is None:
        raise Refusal(
            "the model's chat template writes calls of tools in a way that is not known here: set tool_choice to none",
            "tools",
            "unsupported_parameter",
        )
    form = None if choice == "auto" and not format.trigger else _form(asked, chosen, format)
    return ToolUse(functions, format, form, isinstance(choice, ChosenTool), tokenizer.special_id(format.trigger))


def _form(asked: ChatRequest, chosen: Sequence[Function], format: ToolFormat) -> ToolCalls:
    tools = tuple(Tool(one.name, _schema(one)) for one in chosen)
    is_named = isinstance(asked.tool_choice, ChosenTool)
    try:
        return ToolCalls(
            tools,
            format,
            "auto" if asked.tool_choice == "auto" else "required",
            asked.parallel_tool_calls and not is_named,
        )
    except GrammarError as problem:
        raise refused(problem, "tools") from None


def _schema(function: Function) -> str:
    """A function takes the arguments that are described, and no others unless its schema says so."""
    given = {"type": "object", "properties": {}} if function.parameters is None else function.parameters
    is_closed = "properties" in given and "additionalProperties" not in given
    return json.dumps(given | ({"additionalProperties": False} if is_closed else {}), ensure_ascii=False)


def _check_names(functions: Sequence[Function]) -> None:
    names = [one.name for one in functions]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise Refusal(f"two tools have the name {twice!r}", "tools", "invalid_value")


def _named(functions: Sequence[Function], name: str) -> Function:
    found = next((one for one in functions if one.name == name), None)
    if found is None:
        there = ", ".join(one.name for one in functions)
        raise Refusal(f"tool_choice: there is no tool {name!r:.80}, only {there:.400}", "tool_choice", "invalid_value")
    return found


class Calling:
    """One choice on its way out, as deltas of OpenAI's shape."""

    def __init__(self, use: ToolUse, tokenizer: Tokenizer) -> None:
        self._use, self._tokenizer = use, tokenizer
        self._reader = CallReader(use.format)
        self._num_calls = 0

    def delta(self, piece: Piece) -> dict[str, Any]:
        """Empty where nothing can be said yet."""
        events = self._reader.push(self._use.text_of(piece, self._tokenizer))
        if piece.finish_reason is not None:
            events += self._reader.finish()
        text, calls = "", list[dict[str, Any]]()
        for event in events:
            if isinstance(event, Said):
                text += event.text
            elif isinstance(event, Call):
                calls.append(self._begun(event.name))
            elif calls:
                calls[-1]["function"]["arguments"] += event.text
            else:
                calls.append({"index": self._num_calls - 1, "function": {"arguments": event.text}})
        return ({"content": text} if text else {}) | ({"tool_calls": calls} if calls else {})

    def finish_reason(self, piece: Piece) -> str | None:
        return self._use.finish_reason(piece.finish_reason, self._reader.has_called)

    def _begun(self, name: str) -> dict[str, Any]:
        self._num_calls += 1
        function = {"name": name, "arguments": ""}
        return {
            "index": self._num_calls - 1,
            "id": f"call_{uuid.uuid4().hex}",
            "type": "function",
            "function": function,
        }


def joined(deltas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A message of all that a choice has said."""
    text = "".join(delta.get("content", "") for delta in deltas)
    calls: list[dict[str, Any]] = []
    for one in (one for delta in deltas for one in delta.get("tool_calls", ())):
        if "id" in one:
            calls.append({"id": one["id"], "type": one["type"], "function": dict(one["function"])})
        else:
            calls[-1]["function"]["arguments"] += one["function"]["arguments"]
    return {"content": None if calls and not text else text} | ({"tool_calls": calls} if calls else {})
