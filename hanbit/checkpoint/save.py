"""Save a checkpoint so that it is whole or absent.

Order: every process writes its pieces under a temporary folder and fsyncs; all agree that all succeeded; rank 0
writes index, state and manifest, fsyncs, renames the folder, moves `latest`, and only then removes old checkpoints.
A kill at any moment leaves the former checkpoints untouched and at most a dotted folder, which the next save removes.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hanbit.checkpoint.layout import INDEX, KIND, LATEST, STATE, file_name, folder_name, found_steps
from hanbit.common.atomic import fsync_path, write_json, write_text
from hanbit.common.errors import CheckpointError
from hanbit.common.manifest import write_manifest
from hanbit.parallel.agree import from_all, together
from hanbit.parallel.pieces import Piece

Tensors = Mapping[str, tuple[Piece, torch.Tensor]]


def save_checkpoint(
    checkpoints: Path, step: int, tensors: Tensors, state: dict[str, Any], rank: int, keep: int
) -> Path:
    """Write `checkpoints/step-NNNNNN` from every process's `tensors`; returns the folder, the same on every process.

    Raises CheckpointError on all processes if any could not write; former checkpoints stay.
    """
    target = checkpoints / folder_name(step)
    temporary = checkpoints / f".{target.name}.tmp"
    with together(CheckpointError), _told(temporary):
        if rank == 0:
            _remove_unfinished(checkpoints)
            temporary.mkdir(parents=True)
    try:
        with together(CheckpointError), _told(temporary):
            pieces = _write_pieces(temporary, tensors, rank)
        everyone = from_all(pieces)
        with together(CheckpointError), _told(temporary):
            if rank == 0:
                _commit(temporary, target, everyone, state)
    except CheckpointError:
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if rank == 0:
        _remove_old(checkpoints, keep)
    return target


def _write_pieces(folder: Path, tensors: Tensors, rank: int) -> dict[str, Any]:
    """One file with the pieces that are ours to write; returns what the index says of them."""
    mine = {
        name: tensor.detach().contiguous().cpu()
        for name, (piece, tensor) in tensors.items()
        if piece.writes and tensor.numel() > 0
    }
    if not mine:
        return {}
    path = folder / file_name(rank)
    save_file(mine, path)
    fsync_path(path)
    return {
        name: {
            "shape": list(tensors[name][0].shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "piece": {"file": path.name, "offset": list(tensors[name][0].offset), "size": list(tensor.shape)},
        }
        for name, tensor in mine.items()
    }


def _commit(temporary: Path, target: Path, everyone: list[dict[str, Any]], state: dict[str, Any]) -> None:
    write_json(temporary / INDEX, _index_of(everyone))
    write_json(temporary / STATE, state)
    files = sorted(path.name for path in temporary.iterdir())
    write_manifest(temporary, KIND, files)
    fsync_path(temporary)
    if target.exists():  # the same step again, after a resume from an older one because this one was damaged
        shutil.rmtree(target)
    temporary.rename(target)
    fsync_path(target.parent)
    point_at(target)


def point_at(folder: Path) -> None:
    """Let `latest` name this checkpoint; a resume does so too, for a kill may come between a rename and this."""
    write_text(folder.parent / LATEST, folder.name + "\n")


def _index_of(everyone: list[dict[str, Any]]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for part in everyone:
        for name, entry in part.items():
            known = tensors.setdefault(name, {"shape": entry["shape"], "dtype": entry["dtype"], "pieces": []})
            known["pieces"].append(entry["piece"])
    return {"tensors": dict(sorted(tensors.items()))}


def _remove_unfinished(checkpoints: Path) -> None:
    if checkpoints.is_dir():
        for path in checkpoints.glob(".step-*.tmp"):
            shutil.rmtree(path)


def _remove_old(checkpoints: Path, keep: int) -> None:
    for step in found_steps(checkpoints)[keep:]:
        shutil.rmtree(checkpoints / folder_name(step), ignore_errors=True)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn the operating system's and safetensors' words into one that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(
            f"could not write {folder}: {problem}. Former checkpoints are kept; make room or set "
            "runs=FOLDER on another disk, then start the same command again to continue"
        ) from problem
