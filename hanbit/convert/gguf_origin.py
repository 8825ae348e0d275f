"""A .gguf file as the source of a conversion."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hanbit.common.atomic import write_json
from hanbit.common.errors import FormatError
from hanbit.common.manifest import sha256_of
from hanbit.common.units import readable_count
from hanbit.config.model import ModelConfig
from hanbit.convert.gguf import GGUFModel
from hanbit.convert.gguf_proof import prove
from hanbit.convert.gguf_tokenizer import end_ids, role_ids, write_tokenizer
from hanbit.convert.origin import Report
from hanbit.formats.gguf.blocks import Blocks, is_quantised, kept, write_blocks


class GGUFOrigin:
    """Raises FormatError on whatever is wrong with the file, its tokenizer excepted."""

    dtype = torch.float32  # what dequantised numbers are exact in

    def __init__(self, path: Path) -> None:
        self.path = path
        self._model = GGUFModel(path)
        self.config: ModelConfig = self._model.config
        self.license: str | None = self._model.metadata.text("general.license", None)
        types = Counter(place.type.name for place in self._model.file.places.values())
        self.has_blocks = any(is_quantised(place.type) for place in self._model.file.places.values())
        numbers = sum(math.prod(place.shape) for place in self._model.file.places.values())
        self.described = (
            f"{self._model.architecture_name}, {self.config.layers} layers, {readable_count(numbers)} parameters, "
            f"{' + '.join(f'{count} {name}' for name, count in types.most_common())}"
        )

    def sha256(self) -> str:
        return sha256_of(self.path)

    def tensors(self, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        return self._model.tensors(dtype)

    def tokenizer(self, folder: Path) -> Path:
        assert isinstance(self.config.vocabulary, int)
        write_tokenizer(self._model.metadata, folder, self.config.vocabulary)
        return folder

    def require_blocks(self) -> None:
        if not self.has_blocks:
            raise FormatError(f"{self.path} has no quantised tensors, so there are no blocks to keep")

    def complete(self, folder: Path, keep_blocks: bool) -> None:
        self._write_generation(folder)
        if keep_blocks:
            write_blocks(folder, self._blocks())

    def prove(self, folder: Path, report: Report) -> dict[str, Any]:
        return prove(self.path, folder, report)

    def _write_generation(self, folder: Path) -> None:
        """All tokens that end an answer; GGUF says nothing of how to sample."""
        roles, ends = role_ids(self._model.metadata), end_ids(self._model.metadata)
        values: dict[str, Any] = {"_from_model_config": True, "bos_token_id": roles["bos"]}
        values["eos_token_id"] = ends if len(ends) > 1 else next(iter(ends), None)
        if roles["pad"] is not None:
            values["pad_token_id"] = roles["pad"]
        write_json(folder / "generation_config.json", values)

    def _blocks(self) -> dict[str, Blocks]:
        found: dict[str, Blocks] = {}
        for name in self._model.shapes:
            stored, place = self._model.source_of(name).name, self._model.file.places[self._model.place_of(name)]
            if is_quantised(place.type) and stored not in found:
                found[stored] = kept(self._model.blocks(name), place.type, place.shape)
        return found
