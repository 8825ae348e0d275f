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
    `model` out of the folder that `tuning.model` names, for a recipe that leaves it out.
    """
    environment = os.environ if environment is None else environment
    document = read_with_bases(find_recipe(source))
    for layer in (from_environment(environment), from_overrides(overrides)):
        lay_over(document, layer)
    if model_of is not None:
        _complete(document, model_of)
    return Loaded(_validated(document, environment), document.places)


def _complete(document: Document, model_of: Callable[[str], dict[str, Any]]) -> None:
    """The section `model` of a recipe that tunes a model folder, unless it is written out."""
    tuning = document.data.get("tuning")
    folder = tuning.get("model") if isinstance(tuning, dict) else None
    if isinstance(folder, str) and "model" not in document.data:
        document.data["model"] = model_of(folder)
        document.places["model"] = f"{folder}/config.json"


def _validated(document: Document, environment: Mapping[str, str]) -> Recipe:
    data = with_variables(document.data, environment, document.places)
    try:
        # by way of JSON: its strict mode takes lists for tuples, and nothing else for anything else
        return Recipe.model_validate_json(json.dumps(data))
    except ValidationError as problem:
        raise ConfigError(explain(problem.errors(), document)) from None
