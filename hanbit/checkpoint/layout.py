"""How a checkpoint lies on disk.

    checkpoints/
      step-000100/
        rank-00000.safetensors   the pieces that rank 0 wrote; one file per process that wrote any
        index.json               every tensor: whole shape, dtype, and the boxes its pieces cover, with their files
        state.json               step, samples seen, the model's config, what the order of the data depends on
        hanbit.json              SHA-256 of all of these; written last
      latest                     the name of the newest whole folder

A folder under construction has a name that starts with a dot, and readers never look at it.
Tensor names: `parameter/NAME`, `first_moment/NAME`, `second_moment/NAME`, NAME as in the whole model.
"""

import re
from pathlib import Path

KIND = "checkpoint"
INDEX = "index.json"
STATE = "state.json"
LATEST = "latest"
_FOLDER = re.compile(r"step-(\d{6,})")


def folder_name(step: int) -> str:
    return f"step-{step:06d}"


def file_name(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def found_steps(checkpoints: Path) -> list[int]:
    """Steps that have a folder, newest first; whether they are whole is for the loader to find out."""
    if not checkpoints.is_dir():
        return []
    names = (_FOLDER.fullmatch(path.name) for path in checkpoints.iterdir() if path.is_dir())
    return sorted((int(match[1]) for match in names if match), reverse=True)
