"""A model folder whose vocabulary grows by pieces of a corpus: the same model, with new rows for new tokens.

A new row of the embedding, and of the output projection where it is a matrix of its own, is the mean of the rows of the
old tokens whose text the new one joins. Old rows stay as they are.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hanbit.checkpoint.model_folder import load_model, read_tensors
from hanbit.common.errors import ConfigError, FormatError, ModelError
from hanbit.config.model import ModelConfig
from hanbit.convert.folder_origin import FolderOrigin
from hanbit.convert.logits import compared, logits_of_ours, tokens_to_try
from hanbit.convert.origin import Origin, Report
from hanbit.data.sources import find_sources
from hanbit.tokenizers.extend import extend
from hanbit.tokenizers.load import TOKENIZER_FILE, copy_tokenizer, load
from hanbit.tokenizers.train import LARGEST_VOCABULARY

NEW_TOKENS = 8192
_GROWING = ("embedding.weight", "output.weight")


class ExtendedOrigin:
    """Raises ConfigError, DataError, ModelError where the vocabulary cannot grow."""

    def __init__(self, origin: FolderOrigin, corpus: str, new_tokens: int) -> None:
        if origin.tokenizer(origin.path) is None:
            raise ModelError(f"{origin.path} has no {TOKENIZER_FILE}, whose vocabulary could be extended")
        self.path, self.dtype, self.license = origin.path, origin.dtype, origin.license
        self._origin, self._tokenizer, self._new_tokens = origin, load(origin.path), new_tokens
        self._sources = find_sources([corpus])
        texts = (text for source in self._sources for text, _ in source.documents())
        self._extended = extend(self._tokenizer, texts, new_tokens)
        # rows beyond the tokenizer, padding, are taken first; what is left of them stays
        rows = max(int(origin.config.vocabulary), max(self._extended.pieces) + 1)
        self.config: ModelConfig = origin.config.model_copy(update={"vocabulary": rows})
        self.described = f"{origin.described}, and {len(self._extended.pieces)} new tokens"

    def sha256(self) -> str:
        digests = [self._origin.sha256(), *(source.sha256 for source in self._sources)]
        return hashlib.sha256(json.dumps([digests, self._new_tokens]).encode()).hexdigest()

    def tensors(self, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        return _Grown(self._origin.tensors(dtype), self._extended.pieces, int(self.config.vocabulary))

    def tokenizer(self, folder: Path) -> Path | None:
        copy_tokenizer(self._tokenizer, folder)
        (folder / TOKENIZER_FILE).write_text(self._extended.core.to_str(pretty=True), encoding="utf-8")
        return folder

    def require_blocks(self) -> None:
        self._origin.require_blocks()

    def complete(self, folder: Path, keep_blocks: bool) -> None:
        self._origin.complete(folder, keep_blocks)

    def prove(self, folder: Path, report: Report) -> dict[str, Any]:
        """Every tensor's old rows as they were; over old tokens the old logits."""
        source, target, rows = read_tensors(self.path), read_tensors(folder), self._tokenizer.vocabulary_size
        for count, name in enumerate(target, 1):
            kept, new = source[name][: rows if name in _GROWING else None], target[name]
            if not torch.equal(kept.to(new.dtype), new[: len(kept)]):
                raise ModelError(f"proof failed: {name} of {folder} is not that of {self.path}")
            report("comparing tensors", count / len(target))
        tokens = tokens_to_try(rows, self._origin.config.context)
        model = load_model(self.path)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(target["embedding.weight"].dtype))
        wanted, found = (logits_of_ours(one, tokens)[:, :rows] for one in (model, load_model(folder)))
        readers = "hanbit on both sides; logits of old tokens"
        return {"tensors": len(target), **compared(wanted, found, folder), "readers": readers}


class _Grown(Mapping[str, torch.Tensor]):
    """The old tensors; those with a row for each token have the new rows, too."""

    def __init__(self, old: Mapping[str, torch.Tensor], pieces: dict[int, tuple[int, ...]], rows: int) -> None:
        self._old, self._pieces, self._rows = old, pieces, rows

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._old[name]
        return self._with_rows(tensor) if name in _GROWING else tensor

    def _with_rows(self, old: torch.Tensor) -> torch.Tensor:
        """[old rows, hidden] -> [rows, hidden] of the same dtype, the means taken in float32."""
        grown = old.new_empty(self._rows, old.shape[1])
        grown[: len(old)] = old
        for id, pieces in self._pieces.items():
            grown[id] = old[list(pieces)].float().mean(0).to(old.dtype)
        return grown

    def __iter__(self) -> Iterator[str]:
        return iter(self._old)

    def __len__(self) -> int:
        return len(self._old)


def extended(origin: Origin, corpus: str | None, new_tokens: int | None) -> Origin:
    """`origin` with a larger vocabulary, or as it is where no corpus is named.

    Raises ConfigError on a count without a corpus, of less than a letter or of more than a vocabulary, FormatError
    where it is no model folder.
    """
    if corpus is None and new_tokens is None:
        return origin
    if corpus is None:
        raise ConfigError(f"--new-tokens {new_tokens} needs --extend-vocabulary CORPUS, the text to learn them from")
    if not corpus.strip():
        raise ConfigError("--extend-vocabulary is empty. Name the text to learn from: a file, a folder or a corpus")
    count = NEW_TOKENS if new_tokens is None else new_tokens
    if count < 4:
        raise ConfigError(f"--new-tokens {count} is too few to make a letter and a word of. Use 4 or more")
    if count > LARGEST_VOCABULARY:
        raise ConfigError(f"--new-tokens {count} is more than any model has. Use at most {LARGEST_VOCABULARY}")
    if not isinstance(origin, FolderOrigin):
        raise FormatError(f"{origin.path} is no model folder. Convert it first, then extend the folder")
    return ExtendedOrigin(origin, corpus, count)
