"""A model repository on disk, as Triton has it.

REPOSITORY/MODEL/config.pbtxt
REPOSITORY/MODEL/1/               versions: whole numbers that do not start with 0
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import MODEL_NAME, is_ensemble, read_config

_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class RepositoryModel:
    """`versions`: those that the model's version_policy lets be served, the newest last."""

    folder: Path
    config: ModelConfig
    versions: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.folder.name


def model_names(repository: Path) -> list[str]:
    """Every folder that may be a model, whole or not. Raises RepositoryError if there is no such repository."""
    try:
        return sorted(path.name for path in repository.iterdir() if path.is_dir() and MODEL_NAME.fullmatch(path.name))
    except OSError as problem:
        raise RepositoryError(
            f"{repository} is no model repository ({problem.strerror}). Name a folder that holds models, or make one "
            "with `hanbit deploy MODEL_FOLDER NAME --model-repository DIR`"
        ) from None


def read_model(repository: Path, name: str, completes: bool = True) -> RepositoryModel:
    """`completes`: as `read_config` has it. Raises RepositoryError where the model is missing, its configuration is
    wrong, or it has no version."""
    if not MODEL_NAME.fullmatch(name) or not (repository / name).is_dir():
        raise RepositoryError(f"{repository} has no model {name!r:.80}")
    folder = repository / name
    return with_config(folder, read_config(folder, completes))


def with_config(folder: Path, config: ModelConfig) -> RepositoryModel:
    """The versions of `folder` by a configuration, which is completed as Triton does. Raises RepositoryError."""
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1
    if not config.instance_group and not is_ensemble(config):
        config.instance_group.add(name=f"{config.name}_0", count=1)
    present = sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and _VERSION.fullmatch(path.name))
    if not present:
        raise RepositoryError(f"{folder} has no version. Make a folder {folder / '1'}; for an ensemble it stays empty")
    return RepositoryModel(folder, config, _chosen(config, present, folder))


def _chosen(config: ModelConfig, present: list[int], folder: Path) -> tuple[int, ...]:
    """The policy's choice; the newest one where there is no policy."""
    policy = config.version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return tuple(present)
    if kind == "specific":
        missing = sorted(set(policy.specific.versions) - set(present))
        if missing or not policy.specific.versions:
            raise RepositoryError(f"{folder}: version_policy asks for versions {missing}; there are {present}")
        return tuple(sorted(set(policy.specific.versions)))
    return tuple(present[-max(1, policy.latest.num_versions) :])
