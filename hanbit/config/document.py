"""A YAML file as plain data with the line of every key. YAML 1.2, nothing constructed, duplicates refused, sizes capped."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hanbit.common.errors import ConfigError

_LARGEST_BYTES = 1_000_000
_MOST_NODES = 100_000  # aliases are counted each time they are used: "billion laughs" end here
_DEEPEST = 50
_TAG = "tag:yaml.org,2002:"


@dataclass
class Document:
    """`data` as read; `places`: dotted key -> "file:line"."""

    data: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)


def read_document(path: Path) -> Document:
    """Raises ConfigError with file:line on anything that is not a plain mapping."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError(f"{path} is larger than {_LARGEST_BYTES} bytes: it is no recipe")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Name a file, or family/size of hanbit/recipes") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path} cannot be read: {problem}") from None
    node = _compose(text, str(path))
    if node is None:
        return Document({})
    if not isinstance(node, MappingNode):
        raise ConfigError(f"{path}:1: a recipe is a mapping of sections, found a {node.id}")
    reader = _Reader(str(path))
    return Document(reader.value(node, "", 0), reader.places)


def read_scalar(text: str, place: str) -> Any:
    """A value as it would stand in a recipe: `3e-4`, `true`, `[0.9, 0.95]`, `null`; anything else is text."""
    node = _compose(text, place)
    return None if node is None else _Reader(place).value(node, "", 0)


def _compose(text: str, place: str) -> Node | None:
    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise ConfigError(f"{place}:{line}: not YAML: {problem.problem or problem.context}") from None
    except (YAMLError, RecursionError) as problem:
        raise ConfigError(f"{place}: not YAML: {problem}") from None


class _Reader:
    def __init__(self, place: str) -> None:
        self.place = place
        self.places: dict[str, str] = {}
        self.count = 0

    def value(self, node: Node, key: str, depth: int) -> Any:
        self.count += 1
        if self.count > _MOST_NODES or depth > _DEEPEST:
            raise ConfigError(f"{self._at(node)}: too many or too deeply nested values for a recipe")
        if isinstance(node, MappingNode):
            return self._mapping(node, key, depth)
        if isinstance(node, SequenceNode):
            return [self.value(item, key, depth + 1) for item in node.value]
        return self._scalar(node)

    def _mapping(self, node: MappingNode, key: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = name_node.value
            if not isinstance(name_node, ScalarNode) or not isinstance(name, str):
                raise ConfigError(f"{self._at(name_node)}: a key must be a word")
            dotted = f"{key}.{name}" if key else name
            if name in found:
                raise ConfigError(f"{self._at(name_node)}: {dotted} stands twice, first at {self.places[dotted]}")
            self.places[dotted] = self._at(name_node)
            found[name] = self.value(value_node, dotted, depth + 1)
        return found

    def _scalar(self, node: Node) -> Any:
        kind, text = str(node.tag).removeprefix(_TAG), node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text.replace("_", ""), 0 if text.lstrip("+-").lower().startswith(("0x", "0o")) else 10)
        if kind == "float":
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        if kind in ("str", "timestamp"):
            return text
        raise ConfigError(f"{self._at(node)}: tag {node.tag} is not allowed: a recipe holds plain values only")

    def _at(self, node: Node) -> str:
        return f"{self.place}:{node.start_mark.line + 1}"
