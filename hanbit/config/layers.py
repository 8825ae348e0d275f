"""What a recipe is laid together from: files with their bases, the environment, the command line.

Each layer is a Document that holds differences only; `lay_over` puts one on top of another.
"""

import difflib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from hanbit.common.errors import ConfigError
from hanbit.common.log import rank
from hanbit.common.spelling import as_on_disk
from hanbit.config.keys import section_names
from hanbit.config.yaml_file import Document, read_document, read_value

log = logging.getLogger(__name__)

RECIPES = Path(str(resources.files("hanbit"))) / "recipes"
_LONGEST_CHAIN = 20
_KEY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?:,([^}]*))?\}")


def find_recipe(source: str | Path) -> Path:
    """The file that a name means: itself, or one of hanbit's own. Raises ConfigError."""
    path = as_on_disk(Path(source))
    if path.is_file():
        return path
    if path.is_dir():
        resolved = path / "config.resolved.yaml"
        way_out = f"Name {resolved}" if resolved.is_file() else "Name a YAML file inside"
        raise ConfigError(f"{path} is a folder, a recipe is a file. {way_out}")
    packaged = RECIPES / f"{str(source).removesuffix('.yaml')}.yaml"
    if ".." not in path.parts and not path.is_absolute() and packaged.is_file():
        return packaged
    names = recipe_names()
    near = difflib.get_close_matches(str(source), names, n=1)
    way_out = f"Did you mean {near[0]}?" if near else f"Name a YAML file, or one of {', '.join(names)}"
    raise ConfigError(f"there is no recipe {str(source)!r}: neither such a file nor one of hanbit's own. {way_out}")


def recipe_names() -> list[str]:
    """hanbit's own recipes as `family/size`; the bases they share are left out, for they are no whole recipes."""
    names = (path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))
    return sorted(name for name in names if not name.endswith("/base"))


def read_with_bases(path: Path, seen: tuple[Path, ...] = ()) -> Document:
    """A file laid over the file its `base:` names, and so on."""
    own = read_document(path, shown_path(path))
    base = own.data.pop("base", None)
    place = own.places.pop("base", shown_path(path))
    if base is None:
        return own
    if not isinstance(base, str):
        raise ConfigError(f"{place}: base={base!r} must be text: a file, or family/size")
    below = _base_of(path, base, place)
    seen = (*seen, path.resolve())
    if below.resolve() in seen:
        chain = " -> ".join(shown_path(one) for one in (*seen, below.resolve()))
        raise ConfigError(f"{place}: base: goes in a circle: {chain}. Remove one of these bases")
    if len(seen) > _LONGEST_CHAIN:
        raise ConfigError(f"{place}: more than {_LONGEST_CHAIN} bases upon one another")
    document = read_with_bases(below, seen)
    lay_over(document, own)
    return document


def _base_of(path: Path, base: str, place: str) -> Path:
    beside = as_on_disk(path.parent / base)
    if beside.is_file():
        return beside
    try:
        return find_recipe(base)
    except ConfigError as problem:
        raise ConfigError(f"{place}: base={base}: {problem}") from None


def shown_path(path: Path) -> str:
    """As a reader would type it: below hanbit/recipes or below the working folder, else whole."""
    if path.is_relative_to(RECIPES):
        return f"hanbit/recipes/{path.relative_to(RECIPES).as_posix()}"
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


def from_environment(environment: Mapping[str, str]) -> Document:
    """HANBIT_OPTIMIZER__LEARNING_RATE=1e-4 is optimizer.learning_rate."""
    document = Document()
    for name, text in sorted(environment.items()):
        if not name.startswith("HANBIT_"):
            continue
        if "__" not in name:
            _warn_of_single_underscore(name)
            continue
        key = name.removeprefix("HANBIT_").lower().replace("__", ".")
        if not _KEY.fullmatch(key):
            raise ConfigError(f"environment {name} is not HANBIT_<SECTION>__<KEY>, for instance HANBIT_TRAINING__STEPS")
        lay_over(document, _one(key, text, f"environment {name}"))
    return document


def _warn_of_single_underscore(name: str) -> None:
    """HANBIT_TRAINING_STEPS looks like a key and is none: names of other things may have such a form, so no error."""
    section, _, key = name.removeprefix("HANBIT_").partition("_")
    if key and section.lower() in section_names() and rank() == 0:
        log.warning(
            "environment %s is not used: a key is written HANBIT_%s__%s, with two underscores", name, section, key
        )


def from_overrides(overrides: Sequence[str]) -> Document:
    """`section.key=value`, also `--section.key=value` and `--section.key value`; of two for one key the last counts."""
    document = Document()
    waiting = list(overrides)
    while waiting:
        item = waiting.pop(0)
        key, sign, text = item.removeprefix("--").partition("=")
        if not sign and item.startswith("--") and waiting:
            sign, text = "=", waiting.pop(0)
        if not sign or not _KEY.fullmatch(key):
            raise ConfigError(f"command line: {item!r} is not section.key=value, for instance training.steps=100")
        lay_over(document, _one(key, text, "command line"))
    return document


def _one(key: str, text: str, place: str) -> Document:
    value: Any = read_value(text, f"{place}: {key}={text[:40]}")
    document = Document(places=dict.fromkeys([key, *_keys_below(key, value)], place))
    for name in reversed(key.split(".")):
        value = {name: value}
    document.data = value
    return document


def _keys_below(key: str, value: Any) -> list[str]:
    if not isinstance(value, dict):
        return []
    below = [(f"{key}.{name}", item) for name, item in value.items()]
    return [name for inner, item in below for name in (inner, *_keys_below(inner, item))]


def lay_over(below: Document, above: Document) -> None:
    """Sections are merged key by key; a model of another family replaces the one below, and so does any value."""
    for name, value in above.data.items():
        if value is None and name in section_names():
            continue  # a section with nothing (yet) under its name says nothing
        old = below.data.get(name)
        if name == "model" and _is_other_family(old, value):
            below.places = {key: place for key, place in below.places.items() if key.split(".")[0] != "model"}
            below.places["model"] = above.places["model.family"]
            old = None
        below.data[name] = _merged(old, value)
    below.places.update(above.places)


def _is_other_family(old: Any, new: Any) -> bool:
    if not (isinstance(old, dict) and isinstance(new, dict)) or "family" not in new:
        return False
    return "family" in old and new["family"] != old["family"]


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}


def with_variables(value: Any, environment: Mapping[str, str], places: Mapping[str, str], key: str = "") -> Any:
    """`${env:NAME}` and `${env:NAME,default}` inside text become that text; never code, never another type."""
    if isinstance(value, dict):
        inner = {name: f"{key}.{name}" if key else name for name in value}
        return {name: with_variables(item, environment, places, inner[name]) for name, item in value.items()}
    if isinstance(value, list):
        return [with_variables(item, environment, places, key) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def refused(problem: str) -> ConfigError:
        return ConfigError(f"{places.get(key, 'recipe')}: {key}={value}: {problem}")

    def text_of(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name not in environment and default is None:
            raise refused(f"{name} is not set in the environment. Set it, or write ${{env:{name},default}}")
        return environment.get(name, default or "")

    found = _VARIABLE.sub(text_of, value)
    if "${" in found:  # would be read again when the resolved recipe is loaded
        raise refused("only ${env:NAME} and ${env:NAME,default} are known, and what they give must hold no ${")
    return found
