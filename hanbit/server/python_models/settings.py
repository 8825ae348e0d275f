"""What config.pbtxt says of where and how a Python model runs. Raises RepositoryError."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import parameter

PLACES = ("process", "thread", "inline")
_FOLDER = "$$TRITON_MODEL_DIRECTORY"


@dataclass(frozen=True)
class PythonSettings:
    """
    place: "process", one an instance; "thread" of the server; "inline", on the server's event loop.
    start_seconds: for import, auto_complete_config and initialize.
    hang_seconds: how long a process may go on with a batch that nobody waits for, or with ending.
    interpreter: which Python a process runs.
    """

    folder: Path
    version: str
    file: str
    place: str
    start_seconds: float
    hang_seconds: float
    interpreter: str


def python_settings(config: ModelConfig, folder: Path, version: str) -> PythonSettings:
    place = parameter(config, "place", "process")
    if place not in PLACES:
        raise RepositoryError(f"model {config.name!r}: place {place!r:.80} must be one of {', '.join(PLACES)}")
    file = config.default_model_filename or "model.py"
    if Path(file).name != file or not file.endswith(".py") or not (folder / version / file).is_file():
        raise RepositoryError(f"model {config.name!r}: {folder / version} has no {file!r:.80}")
    return PythonSettings(
        folder=folder.resolve(),
        version=version,
        file=file,
        place=place,
        start_seconds=_seconds(config, "start_seconds", 300),
        hang_seconds=_seconds(config, "hang_seconds", 10),
        interpreter=_interpreter(config, folder, place),
    )


def _seconds(config: ModelConfig, name: str, default: float) -> float:
    text = parameter(config, name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value <= 86_400:
        raise RepositoryError(f"model {config.name!r}: {name} {text!r:.40} must be seconds, more than 0, at most a day")
    return value


def _interpreter(config: ModelConfig, folder: Path, place: str) -> str:
    """EXECUTION_ENV_PATH may name a virtual environment, or any folder with bin/python in it."""
    given = parameter(config, "EXECUTION_ENV_PATH")
    if not given:
        return sys.executable
    path = Path(given.replace(_FOLDER, str(folder.resolve())))
    found = path / "bin" / "python"
    if not found.is_file():
        raise RepositoryError(
            f"model {config.name!r}: EXECUTION_ENV_PATH {given!r:.200} must be a folder with bin/python in it. Packed "
            "environments (.tar.gz) are not unpacked here: unpack it, and name the folder"
        )
    if place != "process":
        raise RepositoryError(f"model {config.name!r}: EXECUTION_ENV_PATH needs a process of its own, not {place!r}")
    return str(found)
