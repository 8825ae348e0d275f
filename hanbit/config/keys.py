"""Every key a recipe may have, as dotted names; and the nearest ones to a wrong name."""

import difflib
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hanbit.config.aliases import ALIASES
from hanbit.config.recipe import Recipe


@cache
def known_keys() -> dict[str, FieldInfo]:
    """Dotted key -> field, sections themselves left out; a key that two model families share stands once."""
    return dict(_fields(Recipe, ""))


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        inner = list(_sections(info.annotation))
        if inner:
            for one in inner:
                yield from _fields(one, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def nearest(key: str) -> list[str]:
    """Up to three known keys for a wrong dotted one: another framework's word for it, else the most alike."""
    last = key.rsplit(".", 1)[-1]
    if last in ALIASES and ALIASES[last] != key:
        return [ALIASES[last]]
    known = list(known_keys())
    alike = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    by_last = [name for name in known if name.rsplit(".", 1)[-1] == last]
    return list(dict.fromkeys([*by_last, *alike]))[:3]
