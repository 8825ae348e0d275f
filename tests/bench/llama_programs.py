"""Stand-ins for llama.cpp's programs, for machines without them: a text file that Python runs."""

import os
import sys
from pathlib import Path

REAL = os.environ.get("HANBIT_LLAMA_CPP", "")
"""A folder of the real ones, for tests that need them."""


def write_program(folder: Path, name: str, body: str) -> None:
    """A program `name` that runs the lines `body` with `argv`, its arguments, and `value(flag)`."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    head = "import json, sys\nargv = sys.argv[1:]\nvalue = lambda flag: argv[argv.index(flag) + 1]\n"
    path.write_text(f"#!{sys.executable}\n{head}{body}\n")
    path.chmod(0o755)
