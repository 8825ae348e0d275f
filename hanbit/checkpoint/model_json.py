"""JSON files of a model folder, which may come from anyone."""

from pathlib import Path
from typing import Any

from hanbit.common.errors import ModelError
from hanbit.common.json_object import read_object

_LARGEST_BYTES = 50_000_000


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; raises ModelError on anything else."""
    return read_object(path, _LARGEST_BYTES, ModelError, f"{path.parent} is not a model folder{_nearby(path.parent)}")


def _nearby(folder: Path) -> str:
    """Where the model may be instead."""
    if (folder / "model" / "config.json").is_file():
        return f". There is one in {folder / 'model'}"
    former = folder.with_name(f".{folder.name}.old") if folder.name else folder
    if former != folder and (former / "config.json").is_file():
        return f". A save was interrupted at its last step: rename {former} to {folder.name} to have the former model"
    return ""
