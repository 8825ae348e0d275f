"""What a killed compilation leaves behind: libraries without a byte in inductor's cache.

The linker makes its file first and fills it last. Inductor takes a file that is there for finished, so every later
compiled run on this machine would fail to load it. Seen with torch 2.13 (torch/_inductor/codecache.py, CppCodeCache).
"""

import fcntl
import logging
from pathlib import Path

from torch._inductor.runtime.cache_dir_utils import cache_dir

logger = logging.getLogger(__name__)


def remove_unfinished_libraries() -> None:
    """Before compiling. A library that another process is making at this moment is locked by it, and stays."""
    cache = Path(cache_dir())
    for library in cache.glob("*/*.so"):
        if library.stat().st_size == 0 and _remove_unless_locked(library, cache / "locks"):
            logger.warning("removed %s, which a killed compilation left empty", library)


def _remove_unless_locked(library: Path, locks: Path) -> bool:
    """The lock of `KEY.main.so` is `KEY.lock`; the kernel dropped it when its holder was killed."""
    locks.mkdir(exist_ok=True)
    with open(locks / f"{library.name.split('.')[0]}.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if library.exists() and library.stat().st_size == 0:  # it may have been finished, or removed, meanwhile
            library.unlink()
            return True
        return False
