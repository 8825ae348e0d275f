"""Write a model folder into a repository: tokenize -> model -> detokenize, and the ensemble that users ask.

    NAME_tokenize   NAME_model   NAME_detokenize   NAME          and for each adapter   ADAPTER_model   ADAPTER

A model that turns texts into vectors is one model, NAME.

The models name the model folder and copy nothing, so all of them share one engine. Every model appears whole (written
beside its place and renamed), the ensembles last.
"""

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.atomic import fsync_path, write_text
from hanbit.common.errors import RepositoryError
from hanbit.repository.config import MODEL_NAME, NAME, config_text
from hanbit.repository.embedding import embed_config, width_of
from hanbit.repository.language import detokenize_config, ensemble_config, model_config, tokenize_config

_MARK = "# Written by `hanbit deploy`; a later deploy of the same name replaces it."


@dataclass(frozen=True)
class Deployed:
    """The names that users ask: the model's own, then its adapters'."""

    repository: Path
    names: tuple[str, ...]


def deploy(
    model_folder: Path | str,
    name: str,
    repository: Path | str,
    adapters: Mapping[str, Path | str] | None = None,
    chat_template: str = "auto",
) -> Deployed:
    """`chat_template`: "auto" takes a text as a user's message where the model has a template, "none" as it is.

    Raises RepositoryError where a folder is no model or adapter, a name is no name, or a model of that name was made
    by somebody else.
    """
    folder, repository = _model_folder(Path(model_folder)), Path(repository)
    tuned = {adapter: _adapter_folder(Path(path)) for adapter, path in (adapters or {}).items()}
    width = width_of(folder)
    if width is not None:
        if tuned:
            raise RepositoryError(f"{folder} makes embeddings, which adapters are not for. Leave {min(tuned)!r} out")
        return _deployed(repository, (name,), [embed_config(name, folder, width)])
    tokenize, detokenize = f"{name}_tokenize", f"{name}_detokenize"
    configs = [
        tokenize_config(tokenize, folder, chat_template),
        model_config(f"{name}_model", folder, None),
        detokenize_config(detokenize, folder),
        *(model_config(f"{adapter}_model", folder, path) for adapter, path in tuned.items()),
        *(ensemble_config(one, tokenize, f"{one}_model", detokenize) for one in (name, *tuned)),
    ]
    return _deployed(repository, (name, *tuned), configs)


def _deployed(repository: Path, names: tuple[str, ...], configs: list[ModelConfig]) -> Deployed:
    _check_names(repository, [config.name for config in configs])
    repository.mkdir(parents=True, exist_ok=True)
    for config in configs:
        _write(repository, config)
    return Deployed(repository, names)


def _model_folder(folder: Path) -> Path:
    """The folder itself, or the model that a run folder holds; absolute."""
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    raise RepositoryError(f"{folder} is no model folder: it has no config.json. Export, convert or name another")


def _adapter_folder(folder: Path) -> Path:
    if not (folder / "adapter_config.json").is_file():
        raise RepositoryError(f"{folder} is no adapter folder: it has no adapter_config.json. Make one with a LoRA run")
    return folder.resolve()


def _check_names(repository: Path, names: list[str]) -> None:
    """Before the first is written."""
    for name in names:
        if not MODEL_NAME.fullmatch(name):
            raise RepositoryError(f"model name {name!r:.80} must be at most 128 letters, digits, '_', '-', '.'")
        if names.count(name) > 1:
            raise RepositoryError(f"two models would be called {name!r}. Give model and adapters names of their own")
        path = repository / name
        if path.exists() and not _is_ours(path):
            raise RepositoryError(f"{path} was not written by `hanbit deploy` and is not replaced. Choose another name")


def _is_ours(folder: Path) -> bool:
    try:
        with open(folder / NAME, encoding="utf-8") as file:
            return file.read(len(_MARK)) == _MARK
    except (OSError, UnicodeDecodeError):
        return False


def _write(repository: Path, config: ModelConfig) -> None:
    text = f"{_MARK}\n{config_text(config)}"
    target = repository / config.name
    if target.exists():  # its version folder is there and empty
        write_text(target / NAME, text)
        return
    temporary = repository / f".{config.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        (temporary / "1").mkdir(parents=True)
        write_text(temporary / NAME, text)
        temporary.rename(target)
        fsync_path(repository)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
