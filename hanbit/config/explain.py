"""Pydantic's findings in the words of a recipe: file:line: key=value: the rule. The way out."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from hanbit.config.aliases import ALIASES
from hanbit.config.keys import families, known_keys, nearest, section_names
from hanbit.config.yaml_file import Document, read_value

_MOST_PROBLEMS = 10

_RULES: dict[str, Callable[[dict[str, Any]], str]] = {
    "int_type": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "float_type": lambda _: "a number",
    "finite_number": lambda _: "a finite number",
    "bool_type": lambda _: "true or false",
    "string_type": lambda _: "text",
    "tuple_type": lambda _: "a list",
    "list_type": lambda _: "a list",
    "literal_error": lambda context: str(context["expected"]).replace("'", ""),
    "greater_than": lambda context: f"more than {context['gt']:.17g}",
    "greater_than_equal": lambda context: f"at least {context['ge']:.17g}",
    "less_than": lambda context: f"less than {context['lt']:.17g}",
    "less_than_equal": lambda context: f"at most {context['le']:.17g}",
    "string_pattern_mismatch": lambda _: "one word without `/` that begins with a letter or a digit",
    "string_too_long": lambda context: f"at most {context['max_length']} letters long",
    "string_too_short": lambda context: f"at least {context['min_length']} letter long",
    "too_short": lambda context: f"a list of at least {context['min_length']}",
    "pairs": lambda _: "a list of weight, path, weight, path",
    "three_shares": lambda _: 'shares for training, validation, test, such as "969,30,1"',
    "too_long": lambda context: f"a list of {context['max_length']}",
    "missing": lambda _: "a longer list",
    "dict_type": lambda _: "a section, `key: value` on lines of its own",
    "model_type": lambda _: "a section, `key: value` on lines of its own",
    "model_attributes_type": lambda _: "a section, `key: value` on lines of its own",
}


def explain(errors: Sequence[ErrorDetails], document: Document) -> str:
    """All problems, one a line, at most ten."""
    lines = list(_lines(errors, document))
    more = len(lines) - _MOST_PROBLEMS
    return "\n".join([*lines[:_MOST_PROBLEMS], *([f"and {more} more"] if more > 0 else [])])


def _lines(errors: Sequence[ErrorDetails], document: Document) -> Iterator[str]:
    """A union of types gives an error for each; they become one line."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(_key_of(error, document.data), []).append(error)
    for key, group in by_key.items():
        kind = group[0]["type"]
        if kind == "extra_forbidden":
            for inner in _leaves(key, group[0]["input"]):
                yield f"{_place(inner, document)}: {_unknown(inner, document)}"
        elif kind == "missing" and isinstance(group[0]["loc"][-1], str):
            yield f"{_place(key, document)}: {_missing(key)}"
        elif kind.startswith("union_tag"):
            yield f"{_place('model.family', document)}: {_wrong_family(document)}"
        else:
            yield f"{_place(key, document)}: {key}={shown(group[0]['input'])}: {_rule(key, group, document)}"


def _key_of(error: ErrorDetails, data: Any) -> str:
    """Pydantic's location without the names of union members, which are no keys of ours."""
    parts: list[str] = []
    for index, part in enumerate(error["loc"]):
        is_missing_key = error["type"] == "missing" and index == len(error["loc"]) - 1 and isinstance(part, str)
        if isinstance(data, list) and isinstance(part, int) and part < len(data):
            parts[-1] = f"{parts[-1]}[{part}]"
            data = data[part]
        elif isinstance(data, dict) and part in data:
            parts.append(str(part))
            data = data[str(part)]
        elif is_missing_key:
            parts.append(str(part))
    return ".".join(parts)


def _place(key: str, document: Document) -> str:
    """Where the key stands, or the section around it, or something inside it."""
    parts = key.partition("[")[0].split(".")
    around = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    inside = [name for name in document.places if name.startswith(f"{key}.")]
    return next((document.places[name] for name in (*around, *inside) if name in document.places), "recipe")


def _leaves(key: str, value: Any) -> Iterator[str]:
    """An unknown section's own keys say more than its name: NeMo's `trainer: {max_steps: 10}`."""
    inner = [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
    told = [name for name in inner if name.rsplit(".", 1)[-1] in ALIASES]
    yield from told or [key]


def _unknown(key: str, document: Document) -> str:
    if key in known_keys():
        family = document.data["model"].get("family")
        others = " or ".join(families(key.split(".")[1]))
        return f"{key} is a key of model.family={others}, this model's family is {family}. Remove it"
    alias = ALIASES.get(key.rsplit(".", 1)[-1])
    if alias is not None and alias != key:
        return f"{key} is not a key of a recipe. Hanbit calls it {alias}: write {alias} instead"
    near = nearest(key)
    way_out = f"Did you mean {' or '.join(near)}?" if near else "`hanbit config schema` lists all keys"
    return f"{key} is not a key of a recipe. {way_out}"


def _missing(key: str) -> str:
    if key in section_names():
        return f"the section {key} is missing. Add it to the recipe, or start from a recipe that has it with base:"
    return f"{key} is missing. Add it to the recipe or to the command line ({key}=...)"


def _wrong_family(document: Document) -> str:
    model = document.data.get("model")
    family = model.get("family") if isinstance(model, dict) else None
    found = "is missing" if family is None else f"={shown(family)} is not known"
    return f"model.family{'' if family is not None else ' '}{found}. Use {' or '.join(families())}"


def _rule(key: str, group: list[ErrorDetails], document: Document) -> str:
    """must be a whole number or auto. The way out where one is plain."""
    rules = []
    for error in group:
        rule = _RULES.get(error["type"])
        rules.append(rule(dict(error.get("ctx", {}))) if rule else f"valid ({error['msg']})")
    return f"must be {' or '.join(dict.fromkeys(rules))}{_hint(key, group, document)}"


def _hint(key: str, group: list[ErrorDetails], document: Document) -> str:
    value, kinds = group[0]["input"], {error["type"] for error in group}
    if kinds & {"int_type", "int_from_float"} and isinstance(value, float) and value.is_integer():
        return f". Write {int(value)}"
    if "string_type" in kinds and isinstance(value, int | float):
        return f'. Write "{json.dumps(value)}" with quotation marks'
    if isinstance(value, str) and "${env:" in str(_raw(key, document.data)):
        return f". ${{env:...}} gives text; a number is set by HANBIT_{key.upper().replace('.', '__')}"
    if isinstance(value, str) and not isinstance(read_value(value, key), str):
        return ". Write it without quotation marks"
    return ""


def _raw(key: str, data: Any) -> Any:
    for name in key.split("."):
        data = data.get(name) if isinstance(data, dict) else None
    return data


def shown(value: Any) -> str:
    """Short, on one line; text that would read as another type keeps its quotation marks."""
    is_plain = isinstance(value, str) and value.isprintable() and value and isinstance(read_value(value, ""), str)
    text = value if is_plain else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
