"""Do all processes run the same thing? Asked once, before the first step: otherwise they would hang, or train something
else."""

import torch

import hanbit
from hanbit.common.errors import ConfigError
from hanbit.config.recipe import Recipe
from hanbit.config.write import flat
from hanbit.parallel.agree import from_all


def check_same_run(recipe: Recipe) -> None:
    """Raises ConfigError on every process alike: the first rank that differs from rank 0, and in what."""
    found = from_all(identity_of(recipe))
    for rank, theirs in enumerate(found):
        different = [key for key in sorted({*found[0], *theirs}) if theirs.get(key) != found[0].get(key)]
        if different:
            key = different[0]
            more = f" and {len(different) - 1} more" if len(different) > 1 else ""
            raise ConfigError(
                f"rank {rank} has {key}={theirs.get(key)}, rank 0 has {key}={found[0].get(key)}{more}. Start all ranks "
                "with the same command, from the same environment"
            )


def identity_of(recipe: Recipe) -> dict[str, str]:
    """What must be the same: versions, and every value of the resolved recipe by its dotted key."""
    versions = {"hanbit's version": hanbit.__version__, "torch's version": torch.__version__}
    return {**versions, **flat(recipe)}
