"""Every key a recipe may have, as dotted names; and the nearest ones to a wrong name."""

import difflib
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hanbit.config.aliases import ALIASES
from hanbit.config.recipe import Recipe


@cache
def known_keys() -> dict[str, FieldInfo]:
    """Dotted key -> field, sections themselves left out; a key that two model families share stands once."""
    return dict(_fields(Recipe, ""))


@cache
def section_names() -> frozenset[str]:
    """Keys of a recipe that hold other keys: model, data, ..."""
    return frozenset(name for name, info in Recipe.model_fields.items() if any(sections_of(info.annotation)))


@cache
def families(word: str = "family") -> tuple[str, ...]:
    """The words that model.family takes; of those only whose section `model` has the key `word`."""
    sections = [one for one in sections_of(Recipe.model_fields["model"].annotation) if word in one.model_fields]
    return tuple(get_args(section.model_fields["family"].annotation)[0] for section in sections)


def sections_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The section classes that a field may hold: one, or one for each model family; none for a value or a list."""
    if get_origin(annotation) in (list, dict):
        return
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_of(argument)


def items_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The section classes of which a field may hold a list."""
    for argument in get_args(annotation):
        yield from sections_of(argument) if get_origin(annotation) is list else items_of(argument)


def nearest(key: str) -> list[str]:
    """Up to three known keys for a wrong dotted one: another framework's word for it, else the most alike."""
    last = _last(key)
    if last in ALIASES and ALIASES[last] != key:
        return [ALIASES[last]]
    known = [*known_keys(), *section_names()]
    same_word = _outermost([name for name in known if _last(name) == last])
    beside = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
    found = same_word or _alike(last, beside) or _alike(last, known)
    return [name for name in found if name != key][:3]


def _outermost(names: list[str]) -> list[str]:
    """`steps` is training.steps sooner than logging.trace.steps."""
    depths = {name: name.count(".") for name in names}
    return [name for name in names if depths[name] == min(depths.values())]


def _alike(word: str, names: list[str]) -> list[str]:
    """Of the dotted names those whose last word is most like this one."""
    found = difflib.get_close_matches(word, {_last(name) for name in names}, cutoff=0.7)
    return [name for one in found for name in names if _last(name) == one]


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in section.model_fields.items():
        inner = list(sections_of(info.annotation))
        for one in inner:
            yield from _fields(one, f"{prefix}{name}.")
        if not inner:
            yield f"{prefix}{name}", info
