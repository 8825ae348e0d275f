"""A JSON schema of recipe files, for editors: names, types, bounds and the sentence of every key.

A file holds differences from its `base:`, so nothing is required in it; whether a recipe is whole is known only once
all layers lie on one another (load.py). `hanbit config schema` prints it; `hanbit/recipes/recipe.schema.json` is it.
"""

from typing import Any

from hanbit.config.recipe import Recipe

_BASE = {
    "type": "string",
    "description": "The recipe that this one differs from: `family/size` of hanbit's own, or a file beside this one.",
}


def recipe_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12."""
    schema = _for_differences(Recipe.model_json_schema())
    properties = {"base": _BASE, **schema.pop("properties")}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Hanbit recipe"}
    return {**head, **schema, "properties": properties}


def _for_differences(node: Any) -> Any:
    """Nothing required; and as `family` may stand in the base, a model may be of any family that knows its keys."""
    if isinstance(node, list):
        return [_for_differences(item) for item in node]
    if not isinstance(node, dict):
        return node
    left_out = ("required", "discriminator", "title")
    found = {"anyOf" if key == "oneOf" else key: value for key, value in node.items() if key not in left_out}
    for key, value in found.items():
        if key in ("properties", "$defs"):  # their keys are names of ours, whatever they are
            found[key] = {name: _for_differences(one) for name, one in value.items()}
        elif key != "default":
            found[key] = _for_differences(value)
    return found
