"""What training reads: fixed-length sequences cut from a token file, in an order that any rank can compute.

All documents stand one after another in one row of tokens. Sample i is tokens [i * L, i * L + L] inclusive: L + 1
tokens, so inputs are `sample[:-1]` and targets `sample[1:]`, and neighbours share one token. The last `split` share of
samples is the validation part and is never shuffled; the rest is the training part. A global index g names sample
`permutation(seed, g // n)[g % n]`, whatever the number of processes and wherever a run resumed.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hanbit.common import manifest
from hanbit.common.errors import DataError
from hanbit.common.spelling import as_on_disk
from hanbit.data.megatron import TokenFile, bin_path, idx_path, open_token_file
from hanbit.data.order import permuted

KIND = "tokens"
STEM = "tokens"  # FOLDER/tokens.bin and FOLDER/tokens.idx
_BLOCK_TOKENS = 1 << 20

Part = Literal["train", "validation"]


class Samples:
    """One part of a token file as numbered samples. Made by `open_samples`."""

    def __init__(self, file: TokenFile, sequence_length: int, first: int, count: int, seed: int | None) -> None:
        self.path = bin_path(file.prefix)
        self._index_path = idx_path(file.prefix)
        self.sequence_length = sequence_length
        self._tokens = file.tokens
        self._first = first
        self._count = count
        self._seed = seed  # None: in order
        self._vocabulary: int | None = None
        self._largest: int | None = None
        self._sha256: str | None = None

    def __len__(self) -> int:
        """Samples of one epoch."""
        return self._count

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Samples by global index (any epoch); [len(indices), sequence_length + 1] int64, owned by the caller.

        Raises DataError if `check_vocabulary` was called and a token is outside of it.
        """
        length = self.sequence_length
        batch = np.empty((len(indices), length + 1), np.int64)
        for row, sample in zip(batch, self._places(np.asarray(indices, np.int64)), strict=True):
            start = int(sample) * length
            row[:] = self._tokens[start : start + length + 1]
        if self._vocabulary is not None and batch.size:
            self._refuse_outside(int(batch.min()), int(batch.max()), self._vocabulary)
        return batch

    def arrays(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """A batch by name (hanbit.models.batch): targets are the tokens one further on."""
        batch = self.batch(indices)
        return {"tokens": batch[:, :-1], "targets": batch[:, 1:]}

    def count_targets(self, first: int, count: int) -> int:
        """Targets of `count` samples from global index `first` on: every token is one."""
        return count * self.sequence_length

    @cached_property
    def digest(self) -> str:
        """Of the whole token file: the manifest's SHA-256, or where there is none its size and its index's SHA-256."""
        if self._sha256 is not None:
            return self._sha256
        return f"{self.path.stat().st_size} bytes, index {manifest.sha256_of(self._index_path)}"

    def check_vocabulary(self, size: int) -> None:
        """Refuse tokens that a model with `size` embedding rows cannot look up; later batches are checked too.

        Uses the largest id that the manifest records, else reads all tokens once, in blocks.
        """
        if self._largest is not None:
            self._refuse_outside(0, self._largest, size)
        else:
            for start in range(0, len(self._tokens), _BLOCK_TOKENS):
                block = self._tokens[start : start + _BLOCK_TOKENS]
                self._refuse_outside(int(block.min()), int(block.max()), size)
        self._vocabulary = size

    def _places(self, indices: np.ndarray) -> np.ndarray:
        """[n] global indices -> [n] sample numbers in the whole file."""
        assert indices.size == 0 or indices.min() >= 0, "a global index is never negative"
        epochs, positions = np.divmod(indices, self._count)
        if self._seed is not None:
            for epoch in np.unique(epochs):
                chosen = epochs == epoch
                positions[chosen] = permuted(positions[chosen], self._count, self._seed, int(epoch))
        return self._first + positions

    def _refuse_outside(self, smallest: int, largest: int, size: int) -> None:
        if smallest < 0 or largest >= size:
            raise DataError(
                f"{self.path} holds token {smallest if smallest < 0 else largest}, the model's vocabulary has ids "
                f"0..{size - 1} (model.vocabulary={size}). Set model.vocabulary to the size of the tokenizer that made "
                "the file, or prepare the text again with the model's tokenizer"
            )


def open_samples(
    prefix_or_folder: str | Path,
    sequence_length: int,
    *,
    seed: int,
    part: Part = "train",
    split: float = 0.0,
    verify: bool = True,
) -> Samples:
    """Open a token file for reading samples of `sequence_length` + 1 tokens.

    prefix_or_folder: `PREFIX` of PREFIX.bin and PREFIX.idx, or a folder made by `hanbit prepare`.
    part: "train" (shuffled anew each epoch by `seed`) or "validation" (in order); `split` is validation's share of the
    samples, at least one sample if it is above zero. verify: compare with the SHA-256 of `hanbit.json` if there is one
    (reads every byte; let one process do it). Raises DataError.
    """
    assert sequence_length > 0
    assert 0 <= split < 1
    prefix, recorded = locate(Path(prefix_or_folder), verify)
    file = open_token_file(prefix)
    total = (len(file.tokens) - 1) // sequence_length
    if total < 1:
        raise DataError(
            f"{bin_path(prefix)} has {len(file.tokens)} tokens, one sample of batch.sequence_length={sequence_length} "
            f"needs {sequence_length + 1}. Prepare more text or shorten batch.sequence_length"
        )
    kept = min(total - 1, max(1, round(total * split))) if split > 0 else 0
    first, count = (0, total - kept) if part == "train" else (total - kept, kept)
    if count == 0:
        raise DataError(
            f"{bin_path(prefix)} has {total} samples of batch.sequence_length={sequence_length} and data.split={split} "
            "leaves none for validation. Raise data.split, name data.validation, or prepare more text"
        )
    samples = Samples(file, sequence_length, first, count, seed if part == "train" else None)
    if recorded is not None:
        samples._sha256 = recorded["files"][samples.path.name]["sha256"]
        if isinstance(recorded.get("largest_token"), int):
            samples._largest = recorded["largest_token"]
    return samples


def tokenizer_beside(prefix_or_folder: str | Path) -> Path | None:
    """The tokenizer that `hanbit prepare` left with the token files, whether the folder or FOLDER/tokens names them."""
    path = Path(prefix_or_folder)
    folder = as_on_disk(path)
    if path.name == STEM and not folder.is_dir():
        folder = as_on_disk(bin_path(path)).parent
    return folder / "tokenizer" if (folder / "tokenizer").is_dir() else None


def locate(path: Path, verify: bool) -> tuple[Path, dict[str, Any] | None]:
    """The prefix and, where a manifest stands beside the files and lists them, the manifest, compared with them."""
    path = as_on_disk(path)
    prefix = path / STEM if path.is_dir() else as_on_disk(bin_path(path)).with_suffix("")
    folder = prefix.parent
    if not (folder / manifest.NAME).is_file():
        return prefix, None
    recorded = manifest.read_manifest(folder, KIND, DataError)
    if bin_path(prefix).name not in recorded["files"]:
        return prefix, None
    manifest.verify(folder, recorded, DataError, content=verify)
    return prefix, recorded
