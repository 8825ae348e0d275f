"""The model repository that the suite asks: small Python models, the same files for every server."""

import shutil
from pathlib import Path

from hanbit.common.errors import ConfigError

PREFIX = "conform_"
_SOURCES = Path(__file__).parent / "models"
_PROGRAMS = {"sequence_by_text": "sequence"}  # where a configuration shares another's program
_VERSIONS = {"double": ("1", "3")}
_LABELS = {
    "simple": [f"class {index}" for index in range(16)],
    "scores": ["ant", "bee", "cat", "dog"],  # of five classes: the last one has no name
}


def write_repository(folder: Path) -> list[str]:
    """The names of the models written into `folder`, which is made, or empty. Raises ConfigError."""
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty. Name a folder that is, or a new one")
    return [_write(folder, config) for config in sorted(_SOURCES.glob("*.pbtxt"))]


def model_source(name: str) -> str:
    """The program of a model, by its short name."""
    return (_SOURCES / f"{_PROGRAMS.get(name, name)}.py").read_text(encoding="utf-8")


def _write(folder: Path, config: Path) -> str:
    name = config.stem
    model = folder / f"{PREFIX}{name}"
    program = _SOURCES / f"{_PROGRAMS.get(name, name)}.py"
    for version in _VERSIONS.get(name, ("1",)):
        (model / version).mkdir(parents=True)
        if program.exists():  # an ensemble has none
            shutil.copyfile(program, model / version / "model.py")
    shutil.copyfile(config, model / "config.pbtxt")
    if name in _LABELS:
        (model / "labels.txt").write_text("".join(f"{label}\n" for label in _LABELS[name]), encoding="utf-8")
    return model.name
