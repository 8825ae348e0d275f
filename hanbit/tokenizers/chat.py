"""A conversation as one prompt: the model's own Jinja template, run in a sandbox.

A template comes with a model from anywhere, so it is treated as hostile: jinja2's ImmutableSandboxedEnvironment, plain
JSON values only, no names with a leading underscore, and limits on its length, on what it multiplies and on what it
writes. Its surroundings (filters, globals, white space rules) are those of transformers' `apply_chat_template`, and the
text is the same (tests/tokenizers/test_chat.py).
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from hanbit.common.errors import DataError, GenerationError
from hanbit.tokenizers.tokenizer import Tokenizer

MAX_TEMPLATE_CHARACTERS = 200_000
MAX_PROMPT_CHARACTERS = 16_000_000

_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*(\*|\d{5,})")


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> str:
    """The prompt for `messages` ({"role": ..., "content": ...}); everything passed must be JSON values.

    Encode it with `add_special_tokens=False`: the template has written them. Raises DataError if the tokenizer has no
    template or a broken one, GenerationError if the template refuses these messages.
    """
    if tokenizer.chat_template is None:
        raise DataError(
            f"{tokenizer.source} has no chat template. Give it a chat_template.jinja, or send a plain prompt instead"
        )
    template = _compiled(tokenizer.chat_template, tokenizer.source)
    special = {f"{role}_token": token for role, token in tokenizer.roles.items()}
    values = {
        **special,
        **variables,
        "messages": [{key: value for key, value in message.items() if value is not None} for message in messages],
        "tools": tools,
        "documents": documents,
        "add_generation_prompt": add_generation_prompt,
    }
    return _written(template, _plain(values), tokenizer.source)


def _written(template: jinja2.Template, values: dict[str, Any], source: str) -> str:
    pieces, size = [], 0
    try:
        for piece in template.generate(**values):
            size += len(piece)
            if size > MAX_PROMPT_CHARACTERS:
                raise SecurityError(f"it writes more than {MAX_PROMPT_CHARACTERS} characters")
            pieces.append(piece)
    except Exception as problem:  # a hostile or unlucky template may raise anything
        raise GenerationError(
            f"the chat template of {source} does not accept this conversation: {problem}. "
            "Check the roles and their order"
        ) from None
    return "".join(pieces)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """A copy made of JSON types only: objects with methods never reach the template."""
    try:
        return json.loads(json.dumps(values))
    except (TypeError, ValueError, RecursionError) as problem:
        raise GenerationError(f"a chat message holds a value that is not JSON ({problem})") from None


@lru_cache(maxsize=8)
def _compiled(template: str, source: str) -> jinja2.Template:
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise DataError(
            f"the chat template of {source} has {len(template)} characters, at most {MAX_TEMPLATE_CHARACTERS} are run"
        )
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_Dict(), namespace=_Namespace
    )
    try:
        return environment.from_string(template)
    except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as problem:
        line = getattr(problem, "lineno", None)
        raise DataError(
            f"the chat template of {source} is broken{f' at line {line}' if line else ''}: {problem}. Restore it"
        ) from None


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`"x" * 10**9` and `"%999999999d" % 1` would fill the memory in one step."""
        sizes = [value for value in (left, right) if isinstance(value, int)]
        if operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            length = max((len(value) for value in (left, right) if hasattr(value, "__len__")), default=0)
            if max(sizes, default=0) * length > MAX_PROMPT_CHARACTERS:
                raise SecurityError("it repeats a text too often")
        if operator == "**" and max(map(abs, sizes), default=0) > 1000:
            raise SecurityError("it raises to too high a power")
        if operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise SecurityError("it pads text too far")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}` marks what the assistant says; here the text inside is all that matters."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """`dict(...)` for templates, without the class and its attributes behind it."""

    def __call__(self, *items: Any, **named: Any) -> dict[Any, Any]:
        return dict(*items, **named)


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)` that takes no underscored names, which would reach into Python."""

    def __init__(*args: Any, **named: Any) -> None:
        self, *rest = args
        values = dict(*rest, **named)
        for name in values:
            _refuse_underscore(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: str) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"it sets {name!r}; names with a leading underscore are refused")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """jinja2's own filter escapes HTML, which a prompt must not have."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
