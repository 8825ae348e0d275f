"""What training reads: fixed-length sequences cut from a token file, in an order that any rank can compute.

All documents stand one after another in one row of tokens. Sample i is tokens [i * L, i * L + L] inclusive: L + 1
tokens, so inputs are `sample[:-1]` and targets `sample[1:]`, and neighbours share one token. The last `split` share of
samples is the validation part and is never shuffled; the rest is the training part. (Or documents are shared out, as
Megatron-LM does.) A global index g names sample `permutation(seed, g // n)[g % n]`, whatever the number of processes
and wherever a run resumed.
"""

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hanbit.common import manifest
from hanbit.common.errors import DataError
from hanbit.common.spelling import as_on_disk
from hanbit.config.data import shares
from hanbit.data.apart import IGNORED, Arrays, kept_apart
from hanbit.data.megatron import TokenFile, bin_path, idx_path, open_token_file
from hanbit.data.order import Seed, shuffled, whole_epochs

KIND = "tokens"
STEM = "tokens"  # FOLDER/tokens.bin and FOLDER/tokens.idx
_BLOCK_TOKENS = 1 << 20

Part = Literal["train", "validation", "test"]
Packing = Literal["none", "documents"]


class Samples:
    """One part of a token file as numbered samples. Made by `open_samples`."""

    def __init__(
        self, file: TokenFile, sequence_length: int, offset: int, count: int, seed: Seed | None, *, is_packed: bool
    ) -> None:
        self.path = bin_path(file.prefix)
        self._file = file
        self.sequence_length = sequence_length
        self._offset = offset  # in tokens
        self._count = count
        self._seed = seed  # None: in order
        self._is_packed = is_packed
        self._vocabulary: int | None = None
        self._largest: int | None = None
        self._sha256: str | None = None

    def __len__(self) -> int:
        """Samples of one epoch."""
        return self._count

    def arrays(self, indices: Sequence[int] | np.ndarray) -> Arrays:
        """Samples by global index (any epoch): "tokens" and "targets" [len(indices), sequence_length] int64.

        Packed: "documents" and "positions" too, and no token learns to say how another document begins. Raises
        DataError if `check_vocabulary` was called and a token is outside of it.
        """
        rows = self.batch(indices)
        arrays = {"tokens": rows[:, :-1], "targets": rows[:, 1:]}
        return self._kept_apart(arrays, indices) if self._is_packed else arrays

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """[len(indices), sequence_length + 1] int64, owned by the caller; raises what `arrays` raises."""
        length = self.sequence_length
        rows = np.empty((len(indices), length + 1), np.int64)
        for row, start in zip(rows, self._starts(indices), strict=True):
            row[:] = self._file.tokens[start : start + length + 1]
        if self._vocabulary is not None and rows.size:
            self._refuse_outside(int(rows.min()), int(rows.max()), self._vocabulary)
        return rows

    def count_targets(self, first: int, count: int) -> int:
        """Targets of `count` samples from global index `first` on."""
        total = count * self.sequence_length
        if not self._is_packed:
            return total
        whole, others = whole_epochs(first, count, len(self))
        borders = sum(len(self._begins(start)) for indices in others for start in self._starts(indices))
        return total - whole * self._borders_of_an_epoch - borders

    @cached_property
    def _borders_of_an_epoch(self) -> int:
        first, last = (self._document_at(self._offset + token) for token in (0, self._count * self.sequence_length))
        return int(np.count_nonzero(self._file.lengths[first + 1 : last + 1]))

    def _kept_apart(self, arrays: Arrays, indices: Sequence[int] | np.ndarray) -> Arrays:
        begins = [self._begins(start) for start in self._starts(indices)]
        targets = arrays["targets"].copy()
        for row, places in zip(targets, begins, strict=True):
            row[places - 1] = IGNORED
        return {**arrays, "targets": targets, **kept_apart(begins, self.sequence_length)}

    def _begins(self, start: int) -> np.ndarray:
        """Places 1..sequence_length of the sample at token `start` where another document begins; rising."""
        first, last = self._document_at(start), self._document_at(start + self.sequence_length)
        begins = np.asarray(self._file.starts[first + 1 : last + 1]) // self._file.tokens.itemsize
        return np.unique(begins - start)  # documents without a token begin where the next one does

    def _document_at(self, token: int) -> int:
        """The document that a token is of."""
        return int(np.searchsorted(self._file.starts, token * self._file.tokens.itemsize, side="right")) - 1

    @cached_property
    def digest(self) -> str:
        """Of the whole token file: the manifest's SHA-256, or where there is none its size and its index's SHA-256."""
        if self._sha256 is not None:
            return self._sha256
        return f"{self.path.stat().st_size} bytes, index {manifest.sha256_of(idx_path(self._file.prefix))}"

    def check_vocabulary(self, size: int) -> None:
        """Refuse tokens that a model with `size` embedding rows cannot look up; later batches are checked too.

        Uses the largest id that the manifest records, else reads all tokens once, in blocks.
        """
        if self._largest is not None:
            self._refuse_outside(0, self._largest, size)
        else:
            tokens = self._file.tokens
            for start in range(0, len(tokens), _BLOCK_TOKENS):
                block = tokens[start : start + _BLOCK_TOKENS]
                self._refuse_outside(int(block.min()), int(block.max()), size)
        self._vocabulary = size

    def _starts(self, indices: Sequence[int] | np.ndarray | range) -> list[int]:
        """The first token of each sample, its place in the whole file."""
        return [self._offset + int(place) * self.sequence_length for place in shuffled(indices, len(self), self._seed)]

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
    seed: Seed,
    part: Part = "train",
    split: float | str = 0.0,
    packing: Packing = "none",
    verify: bool = True,
) -> Samples:
    """Open a token file for reading samples of `sequence_length` + 1 tokens.

    prefix_or_folder: `PREFIX` of PREFIX.bin and PREFIX.idx, or a folder made by `hanbit prepare`.
    part: "train" (shuffled anew each epoch by `seed`), "validation" or "test" (in order). `split`: validation's share
    of the samples, at least one if it is above zero; or Megatron's "969,30,1". packing: "documents" adds what keeps
    them apart. verify: compare with the SHA-256 of `hanbit.json` if there is one
    (reads every byte; let one process do it). Raises DataError.
    """
    assert sequence_length > 0
    prefix, recorded = locate(Path(prefix_or_folder), verify)
    file = open_token_file(prefix)
    offset, count = _part(file, sequence_length, part, split)
    samples = Samples(
        file, sequence_length, offset, count, seed if part == "train" else None, is_packed=packing == "documents"
    )
    if recorded is not None:
        samples._sha256 = recorded["files"][samples.path.name]["sha256"]
        if isinstance(recorded.get("largest_token"), int):
            samples._largest = recorded["largest_token"]
    return samples


def borders(count: int, part: Part, split: float | str) -> tuple[int, int]:
    """The first item of a part, of `count`, and the one behind its last. A number is validation's share, at the end."""
    place = ("train", "validation", "test").index(part)
    if isinstance(split, str):
        ends = [0.0, *itertools.accumulate(shares(split))]
        first, last = (min(count, round(end * count)) for end in ends[place : place + 2])
        return first, last
    kept = min(count - 1, max(1, round(count * split))) if split > 0 else 0
    return ((0, count - kept), (count - kept, count), (count, count))[place]


def _part(file: TokenFile, sequence_length: int, part: Part, split: float | str) -> tuple[int, int]:
    """(first token, number of samples). Raises DataError where there is none."""
    total = (len(file.tokens) - 1) // sequence_length
    if total < 1:
        raise DataError(
            f"{bin_path(file.prefix)} has {len(file.tokens)} tokens, one sample of batch.sequence_length="
            f"{sequence_length} needs {sequence_length + 1}. Prepare more text or shorten batch.sequence_length"
        )
    if isinstance(split, str):
        offset, count = _part_by_documents(file, sequence_length, part, split)
    else:
        begin, end = borders(total, part, split)
        offset, count = begin * sequence_length, end - begin
    if count < 1:
        raise DataError(
            f"{bin_path(file.prefix)} has {total} samples of batch.sequence_length={sequence_length} and "
            f"data.split={split} leaves none for {part}. Change data.split, name data.validation, or prepare more text"
        )
    return offset, count


def _part_by_documents(file: TokenFile, sequence_length: int, part: Part, split: str) -> tuple[int, int]:
    """As Megatron-LM cuts (blended_megatron_dataset_builder.py): at rounded shares of the documents."""
    begin, end = (
        len(file.tokens) if index == file.documents else int(file.starts[index]) // file.tokens.itemsize
        for index in borders(file.documents, part, split)
    )
    return begin, (end - begin - 1) // sequence_length


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
