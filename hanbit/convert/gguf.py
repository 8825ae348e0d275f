"""A GGUF file of Llama's shape as the tensors of a model folder, dequantised one at a time when asked for.

llama.cpp rotates Llama's features in neighbouring pairs and its converter reorders the rows of query and key to suit;
Hugging Face's order, which is ours, is put back here. Qwen's files have it already.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from hanbit.checkpoint.model_weights import shapes_of
from hanbit.common.errors import FormatError
from hanbit.convert.gguf_config import architecture_of, config_of
from hanbit.convert.gguf_metadata import Metadata
from hanbit.convert.gguf_rotary import FREQUENCIES
from hanbit.formats.gguf.file import GGUFFile
from hanbit.models.huggingface import Source
from hanbit.models.registry import family_of

_PLAIN = {
    "embedding.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "output.weight": "output.weight",
}
_MODULES = {
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
    "attention_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
}
_JOINED = {
    **dict.fromkeys(("attention.query", "attention.key", "attention.value"), "attn_qkv"),
    **dict.fromkeys(("mlp.gate", "mlp.up"), "ffn_up"),
}


class GGUFModel:
    """Opened and checked: every tensor of the model is there in its shape, and no other. Raises FormatError."""

    def __init__(self, path: Path) -> None:
        self.file = GGUFFile(path)
        self.metadata = Metadata(self.file)
        self.architecture_name, self.architecture = architecture_of(self.metadata)
        self.config = config_of(self.file)
        self.shapes = shapes_of(self.config)
        self._check()

    def tensors(self, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        """By our names, made when asked for."""
        return _Tensors(self, dtype)

    def numbers(self, name: str) -> np.ndarray:
        """float32, by our name."""
        rows = self._ordered(name, self.file.numbers(self.place_of(name)))
        if not self.architecture.is_joined:
            return rows
        return self.source_of(name).read(torch.from_numpy(np.require(rows, requirements="W"))).numpy()

    def blocks(self, name: str) -> np.ndarray:
        """uint8 [rows, bytes of a row], of the file's matrix that our name lies in; rows keep their blocks whole and
        stand in Hugging Face's order."""
        return self._ordered(name, self.file.blocks(self.place_of(name)))

    def place_of(self, name: str) -> str:
        """The file's name."""
        return gguf_name(name, self.architecture.is_joined)

    def source_of(self, name: str) -> Source:
        """Where our tensor lies in Hugging Face's matrix, which the file has with its rows in the same order."""
        return family_of(self.config).huggingface.source_of(name, self.config)

    def _ordered(self, name: str, rows: np.ndarray) -> np.ndarray:
        config, module = self.config, name.split(".")[-2]
        assert isinstance(config.key_value_heads, int)
        heads = {"query": config.heads, "key": config.key_value_heads}.get(module)
        if heads is None or not self.architecture.is_interleaved:
            return rows
        pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])  # [heads, head_dim / 2, 2, ...]
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)

    def _check(self) -> None:
        places = self.file.places
        for name, own in self.shapes.items():
            shape, place = self.source_of(name).shape_in_file(own), places.get(self.place_of(name))
            if place is None:
                raise FormatError(f"{self.file.path} has no tensor {self.place_of(name)}: it is not a whole model")
            if place.shape != shape:
                found = f"{place.name} of shape {list(place.shape)}"
                raise FormatError(f"{self.file.path} has {found}, its metadata ask for {list(shape)}")
        left = sorted(set(places) - {self.place_of(name) for name in self.shapes} - {FREQUENCIES})
        if left:
            raise FormatError(f"{self.file.path} has a tensor {left[0]!r:.100} that this model has no place for")


def gguf_name(name: str, is_joined: bool = False) -> str:
    if name in _PLAIN:
        return _PLAIN[name]
    _, index, rest = name.split(".", 2)
    module, short = rest.rsplit(".", 1)
    found = _JOINED.get(module, _MODULES[module]) if is_joined else _MODULES[module]
    return f"blk.{index}.{found}.{short}"


class _Tensors(Mapping[str, torch.Tensor]):
    def __init__(self, model: GGUFModel, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._model.shapes:
            raise KeyError(name)
        numbers = self._model.numbers(name)
        most = torch.finfo(self._dtype).max
        place = f"{self._model.file.path}: tensor {self._model.place_of(name)}"
        way_out = ": get it anew" if self._dtype == torch.float32 else ", or the dtype too narrow: try float32"
        if not -most <= numbers.min() <= numbers.max() <= most:  # a NaN anywhere becomes both
            raise FormatError(f"{place} has numbers that {self._dtype} does not hold. The file is damaged{way_out}")
        return torch.from_numpy(np.require(numbers, requirements="W")).to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.shapes)

    def __len__(self) -> int:
        return len(self._model.shapes)
