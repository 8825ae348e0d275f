"""`tune`: LoRA on a model folder by a recipe, through the same loop as `train`."""

from collections.abc import Sequence
from pathlib import Path

from hanbit.common.errors import ConfigError
from hanbit.config.load import Loaded, load_recipe
from hanbit.train.adapter import model_of
from hanbit.train.run import Result, run_recipe


def tune(source: str | Path, overrides: Sequence[str] = ()) -> Result:
    """Tune by a recipe with a section `tuning`; leaves `runs/<name>/adapter/`. Raises what `train` raises."""
    return run_recipe(load_tuning(source, overrides))


def load_tuning(source: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Raises ConfigError where the recipe tunes nothing."""
    loaded = load_recipe(source, overrides, model_of=model_of)
    if loaded.recipe.tuning is None:
        raise ConfigError(
            f"{source} has no section tuning. Add tuning.model=FOLDER, the model to adapt, or use `hanbit train`"
        )
    return loaded
