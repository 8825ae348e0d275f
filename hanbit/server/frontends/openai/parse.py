"""The bytes of a request -> one of the classes of `requests.py`, or a refusal that names the field.

What a client may send falls in four groups: fields that are used; harmless ones that change nothing in an answer; ones
that would change it and are not built, which pass only with the value that asks for nothing; and unknown ones, which
are refused with the nearest known name. Nothing that could matter is dropped silently.
"""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from hanbit.server.frontends.openai.errors import Refusal

# for billing, caches, records and the like
HARMLESS = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prediction"}
    | {"prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
)
# each with the values that ask for nothing
NOT_BUILT: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),  # of a chat
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "reasoning_effort": (),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}

Request = TypeVar("Request", bound=BaseModel)


def parse(kind: type[Request], body: bytes) -> Request:
    """null stands for a field that is not given. Raises Refusal."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as problem:
        raise Refusal(f"the body is not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise Refusal("the body must be a JSON object")
    try:
        return kind.model_validate(used(value, kind))
    except ValidationError as problem:
        raise _refusal(problem) from None


def used(value: Mapping[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """The fields of `kind`, once none of the others could change the answer."""
    known = set(kind.model_fields)
    given = {name: item for name, item in value.items() if item is not None and name not in HARMLESS - known}
    for name, item in given.items():
        if name not in known and name not in NOT_BUILT:
            raise Refusal(_unknown(name, known), param=name[:80], code="unknown_parameter")
        if name not in known and item not in NOT_BUILT[name]:
            raise Refusal(
                f"{name} would change the answer and is not supported here: leave it out",
                param=name,
                code="unsupported_parameter",
            )
    return {name: item for name, item in given.items() if name in known}


def _unknown(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name[:80], known, 1)
    return f"unknown field {name!r:.80}" + (
        f". Do you mean {near[0]!r}?" if near else f": use {', '.join(sorted(known))}"
    )


def _refusal(problem: ValidationError) -> Refusal:
    """The first thing that is wrong; a place reads like messages[0].content."""
    first = problem.errors(include_url=False, include_context=False)[0]
    param = ""
    for step in first["loc"]:
        param += f"[{step}]" if isinstance(step, int) else f"{'.' if param else ''}{step}"
    if first["type"] == "missing":
        return Refusal(f"{param} is required", param=param, code="missing_required_parameter")
    got = "" if first["type"] in ("wrong", "too_short", "too_long") else f", not {first['input']!r:.60}"
    rule = first["msg"][0].lower() + first["msg"][1:]
    return Refusal(f"{param}: {rule}{got}", param=param, code="invalid_value")
