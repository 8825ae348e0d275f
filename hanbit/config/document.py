"""The tables of docs/recipes.md, made from the fields: a test holds page and code equal.

`hanbit config document docs/recipes.md` writes them between the page's two marks.
"""

import json
from collections.abc import Iterator
from typing import Any, cast

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from hanbit.common.errors import ConfigError
from hanbit.config.keys import families, items_of, sections_of
from hanbit.config.recipe import Recipe

BEGIN, END = "<!-- made by `hanbit config document`: begin -->", "<!-- made by `hanbit config document`: end -->"
_HEAD = "| key | value | default | meaning |\n|---|---|---|---|"


def with_tables(page: str) -> str:
    """The page with fresh tables between its marks. Raises ConfigError if it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the page has no place for the tables. Add these two lines to it: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def tables() -> str:
    """A heading, a sentence and a table for each section, in the order of a recipe."""
    plain = {name: info for name, info in Recipe.model_fields.items() if not list(sections_of(info.annotation))}
    parts = ["\n".join([_HEAD, *(_row(name, info, "") for name, info in plain.items())])]
    for name, info in Recipe.model_fields.items():
        sections = list(sections_of(info.annotation))
        parts += list(_section(name, sections)) if sections else []
    return "\n\n".join(parts)


def _section(name: str, sections: list[type[BaseModel]]) -> Iterator[str]:
    """More than one class: a model, whose keys depend on its family."""
    if len(sections) == 1:
        yield _table(name, sections[0].__doc__ or "", sections[0], "")
    for section in sections if len(sections) > 1 else []:
        family = families()[sections.index(section)]
        yield _table(f"{name}, family {family}", section.__doc__ or "", section, family)
    for section in sections:
        for key, info in section.model_fields.items():
            for inner in dict.fromkeys([*sections_of(info.annotation), *items_of(info.annotation)]):
                yield _table(f"{name}.{key}", inner.__doc__ or "", inner, "")


def _table(title: str, sentence: str, section: type[BaseModel], family: str) -> str:
    fields = sorted(section.model_fields.items(), key=lambda field: field[0] != "family")  # which table to read, first
    rows = [_row(name, info, family) for name, info in fields]
    return "\n".join([f"### {title}", "", sentence, "", _HEAD, *rows])


def _row(name: str, info: FieldInfo, family: str) -> str:
    meaning = info.description or (f"`{family}`: this table." if name == "family" else "")
    cells = [f"`{name}`", _values(info), _default(info), meaning]
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True)
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _values(info: FieldInfo) -> str:
    """What may stand there, from the same JSON schema that editors get."""
    alone: type[BaseModel] = create_model("Alone", value=(cast(Any, info.annotation), info))
    schema = alone.model_json_schema()["properties"]["value"]
    return _words(schema)


def _words(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return "a section"
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(map(_words, schema.get("anyOf") or schema["oneOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array" and "items" in schema:
        return f"list of {'sections' if '$ref' in schema['items'] else _words(schema['items'])}"
    if schema["type"] == "object":
        return f"names, each with {_words(next(iter(schema['patternProperties'].values())))}"
    if schema["type"] == "array":
        return f"list of {schema['maxItems']}: {_words(schema['prefixItems'][0])}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    if schema["type"] == "null":
        return "`null`"
    return " ".join([words[schema["type"]], *_bounds(schema)])


def _bounds(schema: dict[str, Any]) -> list[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema and abs(schema[key]) < 2**53]
