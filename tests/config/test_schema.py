"""The editors' schema and the page say what the loader does."""

import json
from pathlib import Path
from typing import Any

import pytest

from hanbit.common.errors import ConfigError
from hanbit.config.document import BEGIN, END, with_tables
from hanbit.config.keys import known_keys
from hanbit.config.layers import RECIPES
from hanbit.config.schema import recipe_schema
from hanbit.config.yaml_file import read_document

PAGE = Path(__file__).parents[2] / "docs/recipes.md"
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "object": dict}


def allows(schema: dict[str, Any], value: Any) -> bool:
    """The part of JSON Schema that ours uses, by the book (json-schema.org, draft 2020-12)."""
    if "$ref" in schema:
        return allows(recipe_schema()["$defs"][schema["$ref"].rsplit("/", 1)[-1]], value)
    if "anyOf" in schema:
        return any(allows(one, value) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    if schema["type"] == "array":
        if not isinstance(value, list) or len(value) < schema.get("minItems", 0):
            return False
        if "items" in schema:
            return all(allows(schema["items"], item) for item in value)
        places = schema["prefixItems"]
        return len(value) == len(places) and all(map(allows, places, value))
    if isinstance(value, bool) != (schema["type"] == "boolean") or not isinstance(value, TYPES[schema["type"]]):
        return False
    if isinstance(value, dict):
        known = schema["properties"]
        return all(name in known and allows(known[name], item) for name, item in value.items())
    return _is_within(schema, value)


def _is_within(schema: dict[str, Any], value: Any) -> bool:
    if isinstance(value, str | None):
        return True
    lowest, highest = schema.get("minimum", -float("inf")), schema.get("maximum", float("inf"))
    above, below = schema.get("exclusiveMinimum", -float("inf")), schema.get("exclusiveMaximum", float("inf"))
    return bool(lowest <= value <= highest and above < value < below)


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_the_schema_allows_every_recipe(path: Path) -> None:
    assert allows(recipe_schema(), read_document(path).data)


@pytest.mark.parametrize(
    "data",
    [
        {"stpes": 3},
        {"training": {"steps": "abc"}},
        {"training": {"steps": 0}},
        {"training": {"compile": 1}},
        {"model": {"family": "gpt", "key_value_heads": 2}},
        {"model": {"family": "t6"}},
        {"optimizer": {"betas": [0.9]}},
        {"logging": {"trace": {"steps": [1, "2"]}}},
        {"logging": {"trace": {"steps": []}}},
        {"optimizer": {"betas": [0.9, 1.0]}},
        {"parallel": {"shard": 4}},
        {"base": 3},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(data: dict[str, Any]) -> None:
    assert not allows(recipe_schema(), data)


def test_the_schema_asks_for_nothing_because_a_base_may_have_it() -> None:
    assert '"required"' not in json.dumps(recipe_schema())
    assert allows(recipe_schema(), {"model": {"layers": 3}})


def test_the_schema_file_beside_the_recipes_is_up_to_date() -> None:
    written = json.loads((RECIPES / "recipe.schema.json").read_text(encoding="utf-8"))
    assert written == recipe_schema(), "run: hanbit config schema > hanbit/recipes/recipe.schema.json"


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run: hanbit config document docs/recipes.md"


def test_the_page_has_every_key_with_a_sentence() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    described = {row[0].strip("| `") for row in rows if len(row) == 4 and row[3].rstrip(" |").endswith(".")}
    assert {key.rsplit(".", 1)[-1] for key in known_keys()} <= described


def test_text_around_the_tables_is_kept_and_a_page_without_marks_refused() -> None:
    found = with_tables(f"before {BEGIN} outdated {END} after")
    assert found.startswith(f"before {BEGIN}\n")
    assert found.endswith(f"{END} after")
    assert "outdated" not in found
    with pytest.raises(ConfigError, match="no place for the tables"):
        with_tables("a page")
