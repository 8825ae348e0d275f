"""What every kind of source offers to a conversion. `gguf_origin.py` and `folder_origin.py` are the kinds there are."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from hanbit.config.model import ModelConfig

Report = Callable[[str, float], None]  # (what is being done, share done from 0 to 1)


class Origin(Protocol):
    """Opened and checked: what can be refused has been.

    `described` is one line for people; `dtype` what the target gets unless another is asked for.
    """

    path: Path
    config: ModelConfig
    described: str
    dtype: torch.dtype
    license: str | None

    def sha256(self) -> str:
        """Of all that the conversion reads."""

    def tensors(self, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
        """Whole, by our names, made when asked for."""

    def tokenizer(self, folder: Path) -> Path | None:
        """A folder with the tokenizer's files: the source's own, or `folder`, into which they are written."""

    def require_blocks(self) -> None:
        """Asked before anything is written where blocks are to be kept. Raises FormatError if there are none."""

    def complete(self, folder: Path, keep_blocks: bool) -> None:
        """Put into the new model folder what its writer does not know of."""

    def prove(self, folder: Path, report: Report) -> dict[str, Any]:
        """Read source and new folder again and compare; ModelError at the first difference. Gives what was found."""
