"""A YAML file as plain data with the place of every key.

YAML 1.2, nothing constructed, duplicates refused, sizes capped: a recipe from a stranger can be wrong, never harmful.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hanbit.common.errors import ConfigError

_LARGEST_BYTES = 200_000
_MOST_NODES = 100_000  # aliases are counted each time they are used: "billion laughs" end here
_DEEPEST = 50
_TAG = "tag:yaml.org,2002:"
_TEXT = ("str", "timestamp", "value", "merge")  # YAML 1.2's core schema knows no dates, and no merge keys
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass
class Document:
    """`data` as read; `places`: dotted key -> "file:line"."""

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


def read_document(path: Path, name: str | None = None) -> Document:
    """`name`: what to call the file in places. Raises ConfigError with file:line on all but a plain mapping."""
    name = name or str(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{name} cannot be read: {problem}") from None
    if len(content) > _LARGEST_BYTES:
        raise ConfigError(f"{name} is larger than {_LARGEST_BYTES} bytes: it is no recipe")
    node = _compose(text, name)
    if node is None or (isinstance(node, ScalarNode) and not node.value):
        return Document()
    if not isinstance(node, MappingNode):
        raise ConfigError(
            f"{name}:{node.start_mark.line + 1}: a recipe is a mapping of sections, found a {_kind(node)}"
        )
    reader = _Reader(name)
    return Document(reader.value(node, "", 0), reader.places)


def read_value(text: str, place: str) -> Any:
    """A value as it would stand in a recipe: `3e-4`, `true`, `[0.9, 0.95]`, `null`; anything else is text.

    `place` names the value in errors. Only what begins like a list, a mapping or a quotation is parsed as one, so that
    text with `#` or `: ` inside arrives whole.
    """
    if text.lstrip()[:1] in ("[", "{", '"', "'"):
        node = _compose(text, place, has_lines=False)
        assert node is not None
        return _Reader(place, has_lines=False).value(node, "", 0)
    text = text.strip()
    tag = YAML(typ="safe", pure=True).resolver.resolve(ScalarNode, text, (True, False))
    return _scalar(str(tag), text, place)


def _compose(text: str, name: str, has_lines: bool = True) -> Node | None:
    try:
        return YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = f"{name}:{mark.line + 1}" if mark and has_lines else name
        raise ConfigError(f"{place}: not YAML: {problem.problem or problem.context}") from None
    except (YAMLError, RecursionError, ValueError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ConfigError(f"{name}: not YAML: {reason}") from None


class _Reader:
    """Nodes to values, once over the tree; `places` fills on the way."""

    def __init__(self, name: str, has_lines: bool = True) -> None:
        self.name = name
        self.has_lines = has_lines
        self.places: dict[str, str] = {}
        self.count = 0

    def value(self, node: Node, key: str, depth: int) -> Any:
        self.count += 1
        if self.count > _MOST_NODES or depth > _DEEPEST:
            raise ConfigError(f"{self._at(node)}: too many or too deeply nested values for a recipe")
        if isinstance(node, ScalarNode):
            return _scalar(str(node.tag), node.value, self._at(node))
        wanted = "map" if isinstance(node, MappingNode) else "seq"
        if str(node.tag) != _TAG + wanted:
            raise ConfigError(f"{self._at(node)}: {_tag_refused(node.tag)}")
        if isinstance(node, SequenceNode):
            return [self.value(item, f"{key}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        return self._mapping(node, key, depth)

    def _mapping(self, node: Node, key: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name_node, value_node in node.value:
            if not isinstance(name_node, ScalarNode):
                raise ConfigError(f"{self._at(name_node)}: a key must be a word, found a {_kind(name_node)}")
            name = _checked_text(name_node.value, self._at(name_node))
            dotted = f"{key}.{name}" if key else name
            if name in found:
                raise ConfigError(
                    f"{self._at(name_node)}: {dotted} stands twice, first at {self.places[dotted]}. Remove one of them"
                )
            self.places[dotted] = self._at(name_node)
            found[name] = self.value(value_node, dotted, depth + 1)
        return found

    def _at(self, node: Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}" if self.has_lines else self.name


def _kind(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "mapping"
    return "list" if isinstance(node, SequenceNode) else "single value"


def _scalar(tag: str, text: str, place: str) -> Any:
    kind = tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind in _TEXT:
        return _checked_text(text, place)
    try:
        if kind == "bool":
            return _BOOLEANS[text]
        if kind == "int":
            return _integer(text.replace("_", ""))
        if kind == "float":
            return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    except (KeyError, ValueError):  # by an explicit tag (`!!int x`), by `%YAML 1.1`, or too long for a number
        raise ConfigError(f"{place}: {text[:40]!r} is no {kind} of YAML 1.2") from None
    raise ConfigError(f"{place}: {_tag_refused(tag)}")


def _integer(text: str) -> int:
    is_other_base = text.lstrip("+-")[:2].lower() in ("0x", "0o", "0b")
    return int(text, 0 if is_other_base else 10)


def _tag_refused(tag: object) -> str:
    return f"tag {tag} is not allowed. A recipe holds plain values only: text, numbers, true, false, null, lists, keys"


def _checked_text(text: str, place: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"{place}: {text[:40]!r} is no valid Unicode text") from None
    return text
