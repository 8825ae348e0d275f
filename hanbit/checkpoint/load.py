"""Load a checkpoint into any layout: every process reads just the boxes that overlap its own pieces."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hanbit.checkpoint.layout import INDEX, KIND, STATE, folder_name, found_steps
from hanbit.common.errors import CheckpointError
from hanbit.common.manifest import read_manifest, verify
from hanbit.parallel.agree import from_all, from_first
from hanbit.parallel.pieces import Piece

logger = logging.getLogger(__name__)
Tensors = Mapping[str, tuple[Piece, torch.Tensor]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def newest_checkpoint(checkpoints: Path, rank: int, world_size: int) -> Path | None:
    """The newest checkpoint whose every file has its SHA-256; None if there is no checkpoint at all.

    A damaged one is passed over with a warning. Raises CheckpointError if there are some and all are damaged:
    starting afresh over them would lose the run.
    """
    steps = from_first(found_steps(checkpoints) if rank == 0 else None)
    for step in steps:
        folder = checkpoints / folder_name(step)
        problem = _problem_of(folder, rank, world_size)
        if problem is None:
            return folder
        logger.warning("%s is passed over: %s", folder, problem)
    if steps:
        raise CheckpointError(
            f"{checkpoints} has {len(steps)} checkpoint(s) and every one is damaged (see above). Restore one from a "
            "copy, or start a new run with another name=..."
        )
    return None


def _problem_of(folder: Path, rank: int, world_size: int) -> str | None:
    """What is wrong with a checkpoint; the files are shared out over the processes for hashing."""
    problem = None
    try:
        manifest = read_manifest(folder, KIND, CheckpointError)
        verify(folder, manifest, CheckpointError, content=False)
        names = sorted(manifest["files"])[rank::world_size]
        mine = {**manifest, "files": {name: manifest["files"][name] for name in names}}
        verify(folder, mine, CheckpointError)
    except CheckpointError as caught:
        problem = str(caught)
    return next((found for found in from_all(problem) if found is not None), None)


def read_state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / STATE).read_text(encoding="utf-8"))


def load_tensors(folder: Path, tensors: Tensors) -> None:
    """Fill every local tensor from the checkpoint; raises CheckpointError if one is missing or of another shape."""
    reader = Reader(folder)
    with torch.no_grad():
        for name, (piece, tensor) in tensors.items():
            if tensor.numel() > 0:
                reader.read_into(name, piece, tensor)


class Reader:
    """Tensors of a checkpoint by name, whole or by box. Files are memory-mapped and stay open while it lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["tensors"]
        self._files: dict[str, Any] = {}

    def whole(self, name: str) -> torch.Tensor:
        entry = self._entry(name)
        tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        shape = tuple(entry["shape"])
        self.read_into(name, Piece(name, shape, (0,) * len(shape), shape), tensor)
        return tensor

    def read_into(self, name: str, piece: Piece, tensor: torch.Tensor) -> None:
        """Copy the box `piece` of tensor `name` into `tensor`."""
        entry = self._entry(name)
        if tuple(entry["shape"]) != piece.shape:
            raise CheckpointError(
                f"{self.folder}: {name} has shape {tuple(entry['shape'])}, the model wants {piece.shape}: "
                "it is another model's checkpoint. Use another name=... or the recipe that made it"
            )
        covered = 0
        for source in entry["pieces"]:
            box = _overlap(piece, source["offset"], source["size"])
            if box is None:
                continue
            inside, from_source = box
            part = self._file(source["file"]).get_slice(name)[from_source]
            tensor[inside].copy_(part)
            covered += part.numel()
        if covered != tensor.numel():
            raise CheckpointError(f"{self.folder}: {name} is not covered by its pieces ({covered} of {tensor.numel()})")

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self.index:
            raise CheckpointError(f"{self.folder} has no tensor {name}: it is another model's checkpoint")
        return self.index[name]

    def _file(self, name: str) -> Any:
        if name not in self._files:
            try:
                self._files[name] = safe_open(self.folder / name, framework="pt")
            except (OSError, SafetensorError) as problem:
                raise CheckpointError(f"{self.folder / name} cannot be read: {problem}") from problem
        return self._files[name]


def _overlap(piece: Piece, offset: list[int], size: list[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """The common box of our piece and a stored one, as slices of each; None if they do not meet."""
    ours, theirs = [], []
    for own_start, own_length, start, length in zip(piece.offset, piece.size, offset, size, strict=True):
        first, last = max(own_start, start), min(own_start + own_length, start + length)
        if first >= last:
            return None
        ours.append(slice(first - own_start, last - own_start))
        theirs.append(slice(first - start, last - start))
    return tuple(ours), tuple(theirs)
