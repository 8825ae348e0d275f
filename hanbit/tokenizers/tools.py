"""How models write calls of tools, and how tools and their answers are told to a model. No torch.

A chat template that knows tools says how its model was trained to call them; the marks that it mentions tell which way
that is. A template that knows none gets them as text, in the way of the Hermes models, which small models follow best.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanbit.common.errors import GenerationError

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ToolFormat:
    """Text of a block of calls: `trigger opening CALL (separator CALL)* closing`, where CALL is
    `{"name": NAME, ARGUMENTS: {...}}`. Without a trigger the block is the whole answer; without a separator a block is
    one call, and blocks follow each other."""

    name: str
    trigger: str
    opening: str
    closing: str
    separator: str
    arguments: str  # the key

    def call(self, name: str) -> tuple[str, str]:
        """What stands before and behind a call's arguments."""
        return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{self.arguments}": ', "}"


HERMES = ToolFormat("hermes", "<tool_call>", "\n", "\n</tool_call>", "", "arguments")
MISTRAL = ToolFormat("mistral", "[TOOL_CALLS]", "[", "]", ", ", "arguments")
LLAMA3_JSON = ToolFormat("llama3_json", "", "", "", "", "parameters")

# Qwen 2.5's words, which many fine-tuned models have seen
_INTRODUCTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def knows_tools(template: str | None) -> bool:
    return template is not None and "tools" in template


def format_of(template: str | None) -> ToolFormat | None:
    """None for a template that knows tools in a way that is not known here."""
    if template is None or not knows_tools(template) or "<tool_call>" in template:
        return HERMES
    if "[TOOL_CALLS]" in template:
        return None if "[ARGS]" in template else MISTRAL
    is_llama = '"parameters"' in template and ("<|python_tag|>" in template or "ipython" in template)
    return LLAMA3_JSON if is_llama else None


def told(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], template: str | None) -> list[Message]:
    """Messages of OpenAI's shape as a template takes them: a call's arguments as an object; for a template that knows
    no tools all of it as text. Raises GenerationError for arguments that are no JSON object."""
    found = [_with_objects(message) for message in messages]
    return found if knows_tools(template) else _as_text(found, tools)


def _with_objects(message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [_with_object(call) for call in message["tool_calls"]]}


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError) as problem:
        raise GenerationError(f"the arguments of a call of {function['name']!r:.80} are not JSON: {problem}") from None
    if not isinstance(arguments, dict):
        raise GenerationError(f"the arguments of a call of {function['name']!r:.80} must be a JSON object")
    return {**call, "function": {**function, "arguments": arguments}}


def _as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    found = [_one_as_text(message) for message in messages]
    if not tools:
        return found
    introduction = _INTRODUCTION.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if found and found[0]["role"] == "system":
        return [{**found[0], "content": f"{found[0]['content']}\n\n{introduction}"}, *found[1:]]
    return [{"role": "system", "content": introduction}, *found]


def _one_as_text(message: Message) -> Message:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    if not message.get("tool_calls"):
        return message
    calls = (_written(call["function"]) for call in message["tool_calls"])
    return {"role": message["role"], "content": "\n".join([content, *calls] if content else calls)}


def _written(function: Mapping[str, Any]) -> str:
    before, behind = HERMES.call(function["name"])
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return f"{HERMES.trigger}{HERMES.opening}{before}{arguments}{behind}{HERMES.closing}"
