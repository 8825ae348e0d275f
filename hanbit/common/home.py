"""Where Hanbit keeps what can be made again: `HANBIT_HOME`, else ~/.cache/hanbit."""

import os
from pathlib import Path


def home() -> Path:
    """Not made here; made by whoever writes into it."""
    chosen = os.environ.get("HANBIT_HOME", "").strip()
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "hanbit"
