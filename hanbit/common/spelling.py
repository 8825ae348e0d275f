"""A file's name as the disk has it.

Hangul and accents have two spellings in Unicode: composed (NFC), as keyboards write, and decomposed (NFD), as macOS and
its archives do. On Linux they are two names that look the same.
"""

import unicodedata
from pathlib import Path


def as_on_disk(path: Path) -> Path:
    """`path`, or what exists under its other spelling, part by part; `path` where nothing does."""
    if path.exists() or str(path).isascii():
        return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        spellings = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        there = next((found / name for name in spellings if (found / name).exists()), None)
        if there is None:
            return path
        found = there
    return found
