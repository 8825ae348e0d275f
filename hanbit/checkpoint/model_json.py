"""JSON files of a model folder, which may come from anyone."""

import json
from pathlib import Path
from typing import Any

from hanbit.common.errors import ModelError

_LARGEST_BYTES = 50_000_000


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; raises ModelError on anything else."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ModelError(f"{path} is larger than {_LARGEST_BYTES} bytes, which no such file is")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path} does not exist: {path.parent} is not a model folder{_nearby(path.parent)}") from None
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:  # not UTF-8, not JSON, a number of thousands of digits, too deep
        raise ModelError(f"{path} is not JSON: {str(problem)[:200]}. Copy the folder again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold an object, not a {type(value).__name__}")
    return value


def _nearby(folder: Path) -> str:
    """Where the model may be instead."""
    if (folder / "model" / "config.json").is_file():
        return f". There is one in {folder / 'model'}"
    former = folder.with_name(f".{folder.name}.old") if folder.name else folder
    if former != folder and (former / "config.json").is_file():
        return f". A save was interrupted at its last step: rename {former} to {folder.name} to have the former model"
    return ""
