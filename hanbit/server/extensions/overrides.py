"""Load with a configuration, or with files too, that come with the request instead of from the repository.

What comes is a stranger's: the configuration is checked as a file's would be; a file's path is a version and a name,
each of plain characters, and is written into a new folder of its own, so that nothing outside of it can be reached.
Files are programs where a model is one, so they are taken only if the server was told to (`--allow-client-files`).
"""

import base64
import binascii
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import NAME, check_config, config_text
from hanbit.repository.known_backends import same_in_triton
from hanbit.repository.layout import RepositoryModel, with_config
from hanbit.server.errors import RequestError, invalid
from hanbit.server.strict_json import parse_object

_CONFIG, _FILE = "config", "file:"
_PATH = re.compile(r"[1-9][0-9]{0,17}/(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}/){0,8}[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_BESIDE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MOST_FILES = 1024


@dataclass(frozen=True)
class Override:
    """`files`: content by path within the model's folder; none: the repository's."""

    config: ModelConfig
    files: Mapping[str, bytes] = field(default_factory=dict)

    def applied(self, name: str, folder: Path, scratch: Path) -> RepositoryModel:
        """The model of `folder` as it is to be; files go into `scratch`, which is empty. Raises RepositoryError."""
        config = ModelConfig()
        config.CopyFrom(self.config)
        config.name = name
        if not self.files:
            return with_config(folder, config)
        made = scratch / name
        for path, content in self.files.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_bytes(content)
        (made / NAME).write_text(config_text(config), encoding="utf-8")
        return with_config(made, config)


def override_of(name: str, parameters: Mapping[str, Any], may_bring_files: bool) -> Override | None:
    """Of a load's parameters; None if there are none. Files are texts in base64, or bytes. Raises RequestError."""
    unknown = [one for one in parameters if one != _CONFIG and not one.startswith(_FILE)]
    if unknown:
        raise invalid(f"load knows no parameter {unknown[0]!r:.80}; it knows config and file:<version>/<name>")
    files = {key.removeprefix(_FILE): value for key, value in parameters.items() if key.startswith(_FILE)}
    if _CONFIG not in parameters:
        if files:
            raise invalid("files of a load need its config, too")
        return None
    config = _config(name, parameters[_CONFIG])
    if files and not may_bring_files:
        raise RequestError(
            "unsupported", "files of a load are programs: start the server with --allow-client-files true"
        )
    if len(files) > _MOST_FILES:
        raise invalid(f"a load may bring {_MOST_FILES} files, not {len(files)}")
    return Override(config, {_checked(path): _content(path, value) for path, value in files.items()})


def new_scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that only this user reads, for the files of one load."""
    return tempfile.TemporaryDirectory(prefix="hanbit-load-")


def _config(name: str, text: Any) -> ModelConfig:
    if not isinstance(text, str):
        raise invalid("config must be a text: a ModelConfig as JSON")
    value = parse_object(text.encode(), "config")
    try:
        config = json_format.ParseDict(value, ModelConfig())
        if config.name not in ("", name):
            raise invalid(f"config is of model {config.name!r:.80}, and the load of {name!r}")
        same_in_triton(config, "config")
        check_config(config, "config")
    except (json_format.ParseError, RepositoryError) as problem:
        raise invalid(f"config is no configuration of a model: {problem}") from None
    return config


def _checked(path: str) -> str:
    if not _PATH.fullmatch(path) and not _BESIDE.fullmatch(path):
        raise invalid(f"file {path!r:.120} must be <version>/<name>: letters, digits, '_', '-', '.', no step upwards")
    if path.lower() == NAME:
        raise invalid(f"{NAME} comes as the parameter config")
    return path


def _content(path: str, value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise invalid(f"file {path!r:.120} must be a text in base64") from None
