"""Read a recipe: base, then the file, then the environment, then overrides; then check every value.

    load_recipe("llama/60m", ["training.steps=100"])

Each layer holds differences only. Errors carry file:line, key, value, rule, and a way out; all problems come together.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hanbit.common.errors import ConfigError
from hanbit.config.explain import explain
from hanbit.config.layers import (
    find_recipe,
    from_environment,
    from_overrides,
    lay_over,
    read_with_bases,
    with_variables,
)
from hanbit.config.recipe import Recipe
from hanbit.config.yaml_file import Document


@dataclass(frozen=True)
class Loaded:
    """`origins`: dotted key -> "file:line", "environment NAME" or "command line"; a key not in it has its default."""

    recipe: Recipe
    origins: dict[str, str]


def load_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    model_of: Callable[[str], dict[str, Any]] | None = None,
) -> Loaded:
    """`source`: a file, or `family/size` for hanbit/recipes/family/size.yaml. Raises ConfigError.

    `overrides`: `section.key=value` each. `environment`: instead of the process's own. `model_of`: reads the section
    `model` out of the folder that `tuning.model` or `training.initial_model` names; what a recipe says lies over it.
    """
    environment = os.environ if environment is None else environment
    document = read_with_bases(find_recipe(source))
    for layer in (from_environment(environment), from_overrides(overrides)):
        lay_over(document, layer)
    folder = None if model_of is None else _start(document, environment)
    if model_of is not None and folder is not None:
        document = _on_model(model_of(folder), f"{folder}/config.json", document)
    return Loaded(_validated(document, environment), document.places)


def _start(document: Document, environment: Mapping[str, str]) -> str | None:
    """The model folder that the recipe starts from."""
    for section, key in (("tuning", "model"), ("training", "initial_model")):
        values = document.data.get(section)
        folder = values.get(key) if isinstance(values, dict) else None
        if isinstance(folder, str):
            return str(with_variables(folder, environment, document.places, f"{section}.{key}"))
    return None


def _on_model(model: dict[str, Any], place: str, document: Document) -> Document:
    """The recipe, laid over the shape of the model that it starts from."""
    below = Document({"model": model}, dict.fromkeys(["model", *(f"model.{key}" for key in model)], place))
    lay_over(below, document)
    return below


def _validated(document: Document, environment: Mapping[str, str]) -> Recipe:
    data = with_variables(document.data, environment, document.places)
    try:
        # by way of JSON: its strict mode takes lists for tuples, and nothing else for anything else
        return Recipe.model_validate_json(json.dumps(data))
    except ValidationError as problem:
        raise ConfigError(explain(problem.errors(), document)) from None
