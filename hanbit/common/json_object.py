"""A JSON file that may come from anyone, read as an object or refused in words."""

import json
from pathlib import Path
from typing import Any

from hanbit.common.errors import HanbitError


def read_object(path: Path, largest_bytes: int, error: type[HanbitError], missing: str) -> dict[str, Any]:
    """The object in `path`; raises `error` on anything else. `missing`: what it means that the file is not there."""
    try:
        if path.stat().st_size > largest_bytes:
            raise error(f"{path} is larger than {largest_bytes} bytes, which no such file is")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path} does not exist: {missing}") from None
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:  # not UTF-8, not JSON, a number of thousands of digits, too deep
        raise error(f"{path} is not JSON: {str(problem)[:200]}. Copy the folder again") from None
    if not isinstance(value, dict):
        raise error(f"{path} must hold an object, not a {type(value).__name__}")
    return value
