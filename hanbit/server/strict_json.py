"""JSON from strangers: depth bounded, no key twice, every failure a RequestError."""

import json
from typing import Any

from hanbit.server.errors import invalid

_DEEPEST = 100


def parse_object(text: bytes, what: str) -> dict[str, Any]:
    """`what` is what an error calls the text. NaN and infinities are read, as Triton does for tensors."""
    try:
        value = json.loads(text, object_pairs_hook=_no_key_twice)
    except RecursionError:
        raise invalid(f"{what} is nested more than {_DEEPEST} deep") from None
    except (ValueError, UnicodeDecodeError) as problem:  # ValueError: also an integer of thousands of digits
        raise invalid(f"{what} is not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise invalid(f"{what} must be a JSON object")
    _check_depth(value, what)
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r:.80} comes twice")
    return found


def _check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for one in level:
            items = one.values() if isinstance(one, dict) else one
            inner += [item for item in items if isinstance(item, dict | list)]
        level = inner
        if not level:
            return
    raise invalid(f"{what} is nested more than {_DEEPEST} deep")
