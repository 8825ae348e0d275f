"""A model folder opened by whoever computes with it: which folder, on what, in which numbers, with what tokens."""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import torch

from hanbit.common.errors import GenerationError, ModelError
from hanbit.config.model import Shape
from hanbit.tokenizers.tokenizer import Tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def model_folder(folder: Path) -> Path:
    """The folder itself, or the model that a run folder holds."""
    if folder.suffix == ".gguf" and folder.is_file():
        raise ModelError(
            f"{folder} is one file, LLM reads folders. Give it `hanbit.convert.kept.kept_folder(FILE)`, or make one "
            "with `hanbit convert FILE.gguf FOLDER --keep-blocks`; `hanbit generate` and `serve` take the file itself"
        )
    exported = folder / "model"
    is_run = not (folder / "config.json").exists() and (exported / "config.json").exists()
    return exported if is_run else folder


def check_vocabulary(folder: Path, config: Shape, tokenizer: Tokenizer) -> None:
    """Every id of the tokenizer has its row; more rows than ids are padding."""
    rows, ids = config.vocabulary, tokenizer.vocabulary_size
    assert isinstance(rows, int)
    if ids > rows:
        raise ModelError(
            f"{folder}: the tokenizer has ids up to {ids - 1} ({tokenizer.token_of(ids - 1)!r:.80}), config.json says "
            f"vocab_size={rows}. They are not of one model: copy both again from the same place"
        )


def check_ids(name: str, tokens: Sequence[int], config: Shape) -> None:
    """Each is a row of the embedding. `name`: what errors call the text. Raises GenerationError."""
    vocabulary = config.vocabulary
    assert isinstance(vocabulary, int)
    for place, token in enumerate(tokens):
        if not isinstance(token, Integral) or isinstance(token, bool) or not 0 <= token < vocabulary:
            raise GenerationError(
                f"{name} has token {token!r} at place {place}, outside the model's vocabulary of {vocabulary}. "
                "Encode it with the model's own tokenizer"
            )


def device_of(name: str) -> str:
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if has_cuda else "cpu"
    if name != "cpu" and not (has_cuda and name.split(":")[0] == "cuda"):
        raise GenerationError(f"device={name!r} is not here: use auto, cpu{' or cuda' if has_cuda else ''}")
    return name


def dtype_of(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if name not in _DTYPES:
        raise GenerationError(f"dtype={name!r} must be auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]
