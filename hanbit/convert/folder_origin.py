"""A model folder of Hugging Face's layout, ours or another's, as the source of a conversion."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from hanbit.checkpoint.model_folder import is_packed, load_model, read_tensors
from hanbit.checkpoint.model_weights import weight_files
from hanbit.common.errors import FormatError, ModelError
from hanbit.common.manifest import sha256_of
from hanbit.common.units import readable_count
from hanbit.config.model import BertConfig
from hanbit.convert.logits import compared, logits_of_ours, tokens_to_try
from hanbit.convert.origin import Report
from hanbit.formats.gguf.blocks import write_blocks
from hanbit.formats.sentences import settings_files
from hanbit.models.registry import family_of
from hanbit.tokenizers.load import CONFIG_FILE, SPECIAL_FILE, TEMPLATE_FILE, TOKENIZER_FILE

_GENERATION = "generation_config.json"
_SMALL = ("config.json", _GENERATION, TOKENIZER_FILE, CONFIG_FILE, SPECIAL_FILE, TEMPLATE_FILE)


class FolderOrigin:
    """Raises ModelError where the folder is not a whole model of an architecture that is read here."""

    license: str | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = read_tensors(path)
        self.config = self._tensors.config
        self._is_packed = is_packed(path)
        self._settings = settings_files(path) if isinstance(self.config, BertConfig) else []
        norm = "embedding_norm.weight" if isinstance(self.config, BertConfig) else "norm.weight"
        self.dtype = torch.float32 if self._is_packed else self._tensors[norm].dtype
        numbers = sum(torch.Size(shape).numel() for shape in self._tensors.shapes.values())
        self.described = f"{self.config.family}, {self.config.layers} layers, {readable_count(numbers)} parameters"

    def sha256(self) -> str:
        small = [self.path / name for name in (*_SMALL, *self._settings) if (self.path / name).is_file()]
        paths = sorted([*weight_files(self.path), *small])
        digests = "".join(f"{path.relative_to(self.path).as_posix()} {sha256_of(path)}\n" for path in paths)
        return hashlib.sha256(digests.encode()).hexdigest()

    def tensors(self, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        return _InDtype(self._tensors, dtype)

    def tokenizer(self, folder: Path) -> Path | None:
        return self.path if (self.path / TOKENIZER_FILE).is_file() else None

    def require_blocks(self) -> None:
        if not self._is_packed:
            raise FormatError(f"{self.path} is a model folder of plain numbers: there are no blocks to keep")
        why_not = self._tensors.why_no_blocks()
        if why_not is not None:
            raise FormatError(f"{self.path}: {why_not}. No blocks can be kept: leave --keep-blocks out")

    def complete(self, folder: Path, keep_blocks: bool) -> None:
        """How its makers sample, where answers end and how texts become vectors is theirs to say."""
        if keep_blocks:
            write_blocks(folder, self._tensors.blocks())
        if (self.path / _GENERATION).is_file():
            shutil.copyfile(self.path / _GENERATION, folder / _GENERATION)
        for name in self._settings:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(self.path / name, folder / name)

    def prove(self, folder: Path, report: Report) -> dict[str, Any]:
        """Tensors by safetensors under Hugging Face's names on both sides, then logits of both folders."""
        num_compared, prefix = 0, family_of(self.config).huggingface.prefix
        with ExitStack() as stack:
            source, target = _opened(self.path, stack), _opened(folder, stack)
            for name in sorted(target):
                stored = target[name].get_tensor(name)
                theirs = name if name in source else name.removeprefix(prefix)  # some files leave it out
                wanted = source[theirs].get_tensor(theirs) if theirs in source else self._packed(name)
                if not torch.equal(wanted.to(stored.dtype), stored):
                    raise ModelError(f"proof failed: {name} of {folder} is not that of {self.path}")
                num_compared += 1
                report("comparing tensors", num_compared / len(target))
        is_told = not isinstance(self.config, BertConfig) or self.config.word_head
        what = "logits" if is_told else "hidden states"
        report(f"comparing {what}", 1.0)
        assert isinstance(self.config.vocabulary, int)
        tokens = tokens_to_try(self.config.vocabulary, self.config.context)
        model = load_model(self.path)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(stored.dtype))
        found = compared(logits_of_ours(model, tokens), logits_of_ours(load_model(folder), tokens), folder, what)
        packed = "; packed matrices by hanbit on both sides" if self._is_packed else ""
        return {"tensors": num_compared, **found, "readers": f"safetensors on both sides{packed}"}

    def _packed(self, name: str) -> torch.Tensor:
        try:
            return self._tensors.in_file(name)
        except KeyError:
            raise ModelError(f"proof failed: {self.path} has no {name}") from None


def _opened(folder: Path, stack: ExitStack) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in weight_files(folder):
        file = stack.enter_context(safe_open(path, framework="pt"))
        found |= dict.fromkeys(file.keys(), file)
    return found


class _InDtype(Mapping[str, torch.Tensor]):
    def __init__(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
        self._tensors, self._dtype = tensors, dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name].to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
