"""Perplexity of a model over a text, in float32: what a conversion costs.

The text is cut into windows; of each the first half is read, then every token is predicted from those before it, as
llama.cpp's llama-perplexity does it. `hanbit bench perplexity` measures the engine's computation, with rounded inputs
besides.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from hanbit.common.errors import DataError
from hanbit.models.layers.attend import causal
from hanbit.models.layers.decoder import Decoder
from hanbit.tokenizers.tokenizer import Tokenizer

_TEXTS = Path(__file__).with_name("texts")  # English and Korean, prose of this project's own pages
_CONTEXT, _MOST_WINDOWS = 512, 8
_LEAST_CONTEXT = 3  # of which the first half, one token, is read; the next but one is what can be told


def windows_of(tokenizer: Tokenizer, text: Path | None, context: int) -> dict[str, torch.Tensor]:
    """The text's name -> tokens, int64 [windows, min(512, context)]; None: the texts that the package has.

    Raises DataError on a text that is not UTF-8, or shorter than a window, and on a context in which nothing is told.
    """
    if context < _LEAST_CONTEXT:
        raise DataError(
            f"a context of {context} tokens is too short for perplexity, which reads half of it and tells the rest: "
            f"{_LEAST_CONTEXT} at least. Take a model of a longer one"
        )
    paths = sorted(_TEXTS.glob("*.txt")) if text is None else [text]
    return {path.stem if text is None else path.name: _windows(tokenizer, path, context) for path in paths}


def perplexities(model: Decoder, windows: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Text's name -> perplexity."""
    return {name: _perplexity(model, tokens) for name, tokens in windows.items()}


def _windows(tokenizer: Tokenizer, path: Path, context: int) -> torch.Tensor:
    try:
        tokens = tokenizer.encode(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path} cannot be read as UTF-8 text: {problem}") from None
    length = min(_CONTEXT, context)
    count = min(_MOST_WINDOWS, len(tokens) // length)
    if not count:
        raise DataError(f"{path} has {len(tokens)} tokens, perplexity takes windows of {length}. Name a longer text")

    return torch.tensor(tokens[: count * length]).view(count, length)


@torch.no_grad()
def _perplexity(model: Decoder, windows: torch.Tensor) -> float:
    first, positions = windows.shape[1] // 2, torch.arange(windows.shape[1])
    lost, count = 0.0, 0
    for tokens in windows:
        hidden = model.trunk(model.embed(tokens[None], positions), positions, causal())
        told = model.head(hidden[:, first:-1])[0].log_softmax(-1)  # [positions, vocabulary]
        lost -= float(told.gather(1, tokens[first + 1 :, None]).double().sum())
        count += len(told)
    return float(torch.tensor(lost / count, dtype=torch.float64).exp())
