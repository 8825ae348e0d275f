"""Do all processes run the same thing? Asked once, before the first step: otherwise they would hang, or train something
else."""

from collections.abc import Mapping

import torch

import hanbit
from hanbit.common.errors import ConfigError
from hanbit.config.recipe import Recipe
from hanbit.config.write import flat
from hanbit.data.numbered import Numbered
from hanbit.parallel.agree import from_all, told_by


def check_same_run(recipe: Recipe) -> None:
    """Raises ConfigError on every process alike: the first rank that differs from rank 0, and in what."""
    found = from_all(identity_of(recipe))
    for rank, theirs in enumerate(found):
        different = [key for key in sorted({*found[0], *theirs}) if theirs.get(key) != found[0].get(key)]
        if different:
            key = different[0]
            more = f" and {len(different) - 1} more" if len(different) > 1 else ""
            said = f"rank {rank} has {key}={theirs.get(key)}, rank 0 has {key}={found[0].get(key)}{more}"
            way_out = "Start all ranks with the same command, from the same environment"
            raise told_by(0, ConfigError(f"{said}. {way_out}"))


def check_same_data(samples: Numbered, validation: Mapping[str, Numbered]) -> None:
    """Raises ConfigError on every process alike where ranks opened files of another content under the same names."""
    own = {"data.train": samples, **{f"validation {name}".rstrip(): one for name, one in validation.items()}}
    found = from_all({name: f"{len(one)} samples of {one.digest}" for name, one in own.items()})
    for rank, theirs in enumerate(found):
        for name in found[0]:
            if theirs.get(name) != found[0][name]:
                said = f"rank {rank} has other data than rank 0 under the same name: {name} is {theirs.get(name)} there"
                way_out = "Give all ranks the same files, by a path that all understand alike"
                raise told_by(0, ConfigError(f"{said} and {found[0][name]} here. {way_out}"))


def identity_of(recipe: Recipe) -> dict[str, str]:
    """What must be the same: versions, and every value of the resolved recipe by its dotted key."""
    versions = {"hanbit's version": hanbit.__version__, "torch's version": torch.__version__}
    return {**versions, **flat(recipe)}
