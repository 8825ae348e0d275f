"""Quantised blocks of a GGUF file kept in a model folder, for engines that compute with them as they are.

`model.blocks` is a safetensors file under another ending: engines that load every *.safetensors of a folder would take
it for weights. Each tensor, by its Hugging Face name, is uint8 [rows, bytes of a row]; types and logical shapes are
JSON in the file's metadata under `blocks`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hanbit.common.errors import FormatError
from hanbit.common.manifest import NAME, read_manifest, verify
from hanbit.formats.gguf.file import numbers_of

FILE = "model.blocks"
_KEY = "blocks"


@dataclass(frozen=True)
class Blocks:
    """A tensor in blocks: `type` is ggml's name of them (Q4_1), `shape` the logical one, [rows, columns].

    data: uint8 [rows, bytes of a row]; a row is a whole number of blocks.
    """

    type: str
    shape: tuple[int, ...]
    data: torch.Tensor

    def numbers(self) -> torch.Tensor:
        """float32, of the logical shape."""
        return torch.from_numpy(numbers_of(self.data.numpy(), GGMLQuantizationType[self.type], "a kept tensor"))


def is_quantised(type: GGMLQuantizationType) -> bool:
    return GGML_QUANT_SIZES[type][0] > 1


def write_blocks(folder: Path, blocks: Mapping[str, Blocks]) -> None:
    """`folder` exists; names are Hugging Face's."""
    described = {name: {"type": one.type, "shape": list(one.shape)} for name, one in blocks.items()}
    save_file({name: one.data for name, one in blocks.items()}, folder / FILE, metadata={_KEY: json.dumps(described)})


def read_blocks(folder: Path) -> dict[str, Blocks]:
    """By Hugging Face names. Raises FormatError where there are none, where the folder's manifest does not match, and
    where data are not what their type and shape ask for."""
    path = folder / FILE
    if not path.is_file():
        raise FormatError(f"{path} does not exist. Convert the model again with --keep-blocks")
    if (folder / NAME).is_file():
        manifest = read_manifest(folder, "model", FormatError)
        if FILE not in manifest["files"]:
            raise FormatError(f"{path} is not listed in {NAME}. Convert the model again")
        verify(folder, {**manifest, "files": {FILE: manifest["files"][FILE]}}, FormatError)
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})[_KEY])
            if extra := sorted(set(file.keys()) - set(described)):
                raise FormatError(
                    f"{path} is damaged (its metadata say nothing of {extra[0][:200]!r}). Convert the model again"
                )
            return {name: _checked(path, name, one, file.get_slice(name)) for name, one in described.items()}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise FormatError(f"{path} is damaged ({str(problem)[:200]}). Convert the model again") from None


def _checked(path: Path, name: str, described: dict[str, Any], stored: Any) -> Blocks:
    """Shapes are compared before memory is taken."""
    kind, shape = GGMLQuantizationType[described["type"]], tuple(described["shape"])
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    expected = [*shape[:-1], shape[-1] // block_size * block_bytes]
    if shape[-1] % block_size or list(stored.get_shape()) != expected or stored.get_dtype() != "U8":
        found = f"{stored.get_dtype()} {list(stored.get_shape())}"
        raise FormatError(f"{path}: {name[:200]} is {found}, {kind.name} of {list(shape)} needs U8 {expected}")
    return Blocks(kind.name, shape, stored[:])


def kept(data: np.ndarray, type: GGMLQuantizationType, shape: tuple[int, ...]) -> Blocks:
    """data: uint8 [rows, bytes of a row]; copied, because a GGUF file is mapped read-only."""
    return Blocks(type.name, shape, torch.from_numpy(data.copy()))
