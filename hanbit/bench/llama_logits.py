"""The logits that `llama-perplexity --kl-divergence-base FILE` writes, read.

    "_logits_", int32 context, int32 vocabulary, int32 windows, int32 tokens [windows, context]
    for each of a window's positions context/2 .. context-2:
        float32 scale, float32 least, uint16 levels [vocabulary] (filled up to an even number)

A log-probability is least + scale * level. What is more than 16 below the likeliest stands at that bound: of the tail
only that it is small is known. Source: llama.cpp, tools/perplexity/perplexity.cpp.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hanbit.common.errors import FormatError

_MAGIC = b"_logits_"
_HEADER_BYTES = len(_MAGIC) + 3 * 4
_MOST = 2**24  # of a context, a vocabulary, or windows; beyond it the file is something else


@dataclass(frozen=True)
class Windows:
    """tokens: int64 [windows, context]; log_probabilities: float32 [windows, positions, vocabulary], of the token that
    follows each of the positions `first` to context - 2."""

    tokens: np.ndarray
    log_probabilities: np.ndarray

    @property
    def first(self) -> int:
        return self.tokens.shape[1] // 2


def read(path: Path) -> Windows:
    """Raises FormatError on a file that is cut short or another one."""
    data = path.read_bytes()
    if data[: len(_MAGIC)] != _MAGIC or len(data) < _HEADER_BYTES:
        raise FormatError(f"{path} is no file of logits of llama-perplexity: the text may be shorter than two windows")
    context, vocabulary, windows = (int(one) for one in np.frombuffer(data, "<i4", 3, len(_MAGIC)))
    if not all(0 < one < _MOST for one in (context, vocabulary, windows)):
        raise FormatError(f"{path} says context {context}, vocabulary {vocabulary}, windows {windows}: it is damaged")
    positions, width = context - 1 - context // 2, 4 + vocabulary + vocabulary % 2  # in uint16
    begin = _HEADER_BYTES + 4 * windows * context
    if len(data) != begin + 2 * windows * positions * width:
        raise FormatError(f"{path} has {len(data)} bytes, its header says {begin + 2 * windows * positions * width}")
    tokens = np.frombuffer(data, "<i4", windows * context, _HEADER_BYTES).reshape(windows, context)
    rows = np.frombuffer(data, "<u2", offset=begin).reshape(windows, positions, width)
    scales = np.ascontiguousarray(rows[..., :4]).view("<f4")  # [windows, positions, (scale, least)]
    levels = rows[..., 4 : 4 + vocabulary].astype(np.float32)
    return Windows(tokens.astype(np.int64), levels * scales[..., :1] + scales[..., 1:])
