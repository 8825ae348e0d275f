"""Read a recipe: base, then the file, then the environment, then overrides; then check every value.

    load_recipe("llama/60m", ["training.steps=100"])

Each layer holds differences only. Errors carry file:line, key, value, rule, and a way out; all problems come together.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hanbit.common.errors import ConfigError
from hanbit.config.document import Document, read_document, read_scalar
from hanbit.config.keys import nearest
from hanbit.config.recipe import Recipe

RECIPES = Path(str(resources.files("hanbit"))) / "recipes"
_MOST_PROBLEMS = 10
_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?:,([^}]*))?\}")


@dataclass(frozen=True)
class Loaded:
    """`origins`: dotted key -> "file:line", "environment NAME", "command line" or, if absent, the default."""

    recipe: Recipe
    origins: dict[str, str]


def load_recipe(
    source: str | Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Loaded:
    """`source`: a file, or `family/size` for hanbit/recipes/family/size.yaml. Raises ConfigError."""
    environment = os.environ if environment is None else environment
    document = read_with_bases(find_recipe(source))
    _merge(document, _from_environment(environment))
    for override in overrides:
        _merge(document, _from_override(override))
    data = _with_variables(document.data, environment)
    return Loaded(_validated(data, document.places), document.places)


def find_recipe(source: str | Path) -> Path:
    """The file that a name means: itself, or one of hanbit's own."""
    path = Path(source)
    if path.is_file():
        return path
    packaged = RECIPES / f"{str(source).removesuffix('.yaml')}.yaml"
    if packaged.is_file() and ".." not in path.parts:
        return packaged
    known = ", ".join(recipe_names())
    raise ConfigError(f"there is no recipe {str(source)!r}: neither such a file nor one of hanbit's own ({known})")


def recipe_names() -> list[str]:
    return sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.yaml"))


def read_with_bases(path: Path, seen: tuple[Path, ...] = ()) -> Document:
    """A file laid over the file its `base:` names, and so on."""
    if path.resolve() in seen:
        chain = " -> ".join(str(one) for one in (*seen, path.resolve()))
        raise ConfigError(f"{path}: base: goes in a circle: {chain}")
    own = read_document(path)
    base = own.data.pop("base", None)
    place = own.places.pop("base", str(path))
    if base is None:
        return own
    if not isinstance(base, str):
        raise ConfigError(f"{place}: base={base!r} must be a file or family/size")
    beside = path.parent / base
    document = read_with_bases(beside if beside.is_file() else find_recipe(base), (*seen, path.resolve()))
    _merge(document, own)
    return document


def _merge(below: Document, above: Document) -> None:
    _lay_over(below.data, above.data)
    below.places.update(above.places)


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    """Sections are merged key by key; a model of another family replaces the one below."""
    for key, value in above.items():
        old = below.get(key)
        is_merge = isinstance(value, dict) and isinstance(old, dict)
        if is_merge and key == "model" and value.get("family", old.get("family")) != old.get("family"):
            is_merge = False
        if is_merge:
            _lay_over(old, value)
        else:
            below[key] = value


def _from_environment(environment: Mapping[str, str]) -> Document:
    """HANBIT_OPTIMIZER__LEARNING_RATE=1e-4 is optimizer.learning_rate."""
    document = Document({})
    for name, text in environment.items():
        if name.startswith("HANBIT_") and "__" in name:
            _put(document, name.removeprefix("HANBIT_").lower().replace("__", "."), text, f"environment {name}")
    return document


def _from_override(override: str) -> Document:
    key, sign, text = override.removeprefix("--").partition("=")
    if not sign or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
        raise ConfigError(f"command line: {override!r} is not section.key=value, for instance training.steps=100")
    document = Document({})
    _put(document, key, text, "command line")
    return document


def _put(document: Document, key: str, text: str, place: str) -> None:
    section = document.data
    *sections, last = key.split(".")
    for name in sections:
        section = section.setdefault(name, {})
    section[last] = read_scalar(text, f"{place} {key}")
    document.places[key] = place


def _with_variables(value: Any, environment: Mapping[str, str]) -> Any:
    """`${env:NAME}` and `${env:NAME,default}` inside text become that text; never code, never another type."""
    if isinstance(value, dict):
        return {key: _with_variables(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_variables(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def text_of(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name not in environment and default is None:
            raise ConfigError(
                f"{value!r} needs the environment variable {name}. Set it, or write ${{env:{name},default}}"
            )
        return environment.get(name, default or "")

    return _VARIABLE.sub(text_of, value)


def _validated(data: dict[str, Any], places: dict[str, str]) -> Recipe:
    try:
        # by way of JSON: its strict mode takes lists for tuples, and nothing else for anything else
        return Recipe.model_validate_json(json.dumps(data))
    except ValidationError as problem:
        lines = [_described(error, places) for error in problem.errors()[:_MOST_PROBLEMS]]
        more = problem.error_count() - len(lines)
        lines += [f"and {more} more"] if more > 0 else []
        raise ConfigError("\n".join(lines)) from None


def _described(error: ErrorDetails, places: dict[str, str]) -> str:
    """file:line: key=value: the rule. The way out."""
    parts = [str(part) for part in error["loc"]]
    if parts[:1] == ["model"] and len(parts) > 1 and parts[1] in ("gpt", "llama"):
        del parts[1]
    parts = [part for part in parts if not part.startswith(("literal[", "constrained-", "int", "float", "tuple["))]
    key = ".".join(parts)
    place = next((places[name] for name in _from_inner(parts) if name in places), "recipe")
    if error["type"] == "extra_forbidden":
        near = nearest(key)
        way_out = f"Did you mean {' or '.join(near)}?" if near else "See `hanbit config schema`."
        return f"{place}: {key} is not a key of a recipe. {way_out}"
    if error["type"] == "missing":
        return f"{place}: {key} is missing. Add it to the recipe or to the command line ({key}=...)"
    if error["type"].startswith("union_tag"):
        return f"{place}: model.family must be gpt or llama, found {error.get('ctx', {}).get('tag', 'none')}"
    return f"{place}: {key}={_shown(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _from_inner(parts: list[str]) -> list[str]:
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 80 else text[:77] + "..."
