"""One logger per module; rank 0 speaks, the others only warn, with their rank.

`start_logging` is called once by a verb. Everything goes to stderr; `log_to_file` adds the rank's own file,
which keeps every line. Nothing prints outside `cli/`.
"""

import logging
import os
import sys
from pathlib import Path

from hanbit.common.environment import number_of
from hanbit.common.errors import ConfigError

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LINE = "%(asctime)s %(levelname).1s %(name)s  %(message)s"


def rank() -> int:
    """This process's rank, as torchrun tells it; 0 outside of torchrun. Raises ConfigError where it is no number."""
    return number_of("RANK", 0)


def start_logging(debug: bool = False) -> None:
    """Raises ConfigError where HANBIT_LOG is no level, or RANK no number."""
    level = "DEBUG" if debug else _level()
    root = logging.getLogger("hanbit")
    root.setLevel(logging.DEBUG)
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    stream = logging.StreamHandler(sys.stderr)
    if rank() == 0:
        stream.setLevel(level)
        stream.setFormatter(logging.Formatter("%(message)s"))
    else:
        stream.setLevel(max(logging.WARNING, logging.getLevelName(level)))
        stream.setFormatter(logging.Formatter(f"[rank {rank()}] %(message)s"))
    root.addHandler(stream)


def _level() -> str:
    told = os.environ.get("HANBIT_LOG", "").upper() or "INFO"
    if told not in _LEVELS:
        raise ConfigError(f"environment HANBIT_LOG={told[:40].lower()} is no level. Use {', '.join(_LEVELS).lower()}")
    return told


def log_to_file(path: Path) -> None:
    """Append every line of this process to `path`, with time and module."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(logging.Formatter(_LINE))
    logging.getLogger("hanbit").addHandler(handler)
