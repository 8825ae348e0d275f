"""BERT's pre-training: some tokens are hidden, and of two segments of a document either may stand first.

    [CLS] first segment [SEP] second segment [SEP]

A sample is a piece of one document: the document whole where it fits, else one of its equal parts. It is cut in two at
a random token; half of the samples have the two swapped, which the second head is to say (Lan et al., arXiv
1909.11942). 15% of the tokens are targets: 80% of those become [MASK], 10% any token, 10% stay (Devlin et al., arXiv
1810.04805). Rows are padded on the right. What happens to a sample is a function of seed, epoch and its number alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanbit.common import manifest
from hanbit.common.errors import DataError
from hanbit.data.megatron import TokenFile, bin_path, idx_path, open_token_file
from hanbit.data.order import permuted
from hanbit.data.reserved import Reserved
from hanbit.data.samples import Part, locate

MASKED, AS_MASK, AS_ANY = 0.15, 0.8, 0.1
IGNORED = -1
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Pieces:
    """All samples of a token file: documents in equal parts of at most `room` tokens; those of one token have none."""

    file: TokenFile
    room: int
    before: np.ndarray  # [documents + 1] int64: pieces before each document

    @property
    def count(self) -> int:
        return int(self.before[-1])

    def bounds(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(document, first token in it, tokens) of each piece, [n] int64."""
        documents = np.searchsorted(self.before, pieces, "right") - 1
        lengths = self.file.lengths[documents].astype(np.int64)
        shares, place = self.before[documents + 1] - self.before[documents], pieces - self.before[documents]
        starts = place * lengths // shares
        return documents, starts, (place + 1) * lengths // shares - starts


def pieces_of(file: TokenFile, room: int) -> Pieces:
    """Raises DataError where no document has the two tokens that a pair needs."""
    lengths = np.asarray(file.lengths, np.int64)
    shares = np.where(lengths >= 2, -(-lengths // room), 0)
    before = np.concatenate(([0], np.cumsum(shares)))
    if before[-1] == 0:
        raise DataError(f"{bin_path(file.prefix)} has no document of at least two tokens. Prepare more text")
    return Pieces(file, room, before)


class Masked:
    """Numbered samples `first` to `first + count` of a file's pieces; `seed` None: in order, as validation is.

    has_order: with the second head's task; else a piece is one segment.
    """

    def __init__(
        self, pieces: Pieces, sequence_length: int, reserved: Reserved, first: int, count: int, seed: int | None,
        has_order: bool,
    ) -> None:  # fmt: skip
        self.path: Path = bin_path(pieces.file.prefix)
        self._pieces, self.sequence_length, self._reserved = pieces, sequence_length, reserved
        self._first, self._count, self._seed, self._has_order = first, count, seed, has_order
        self._counted = (0, 0)  # samples, and targets in them: what was counted last
        self._per_epoch = self._targets_between(0, count)
        self.recorded_sha256: str | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def digest(self) -> str:
        """Of the token file, as `hanbit.data.samples.Samples.digest`."""
        if self.recorded_sha256 is not None:
            return self.recorded_sha256
        index = idx_path(self._pieces.file.prefix)
        return f"{self.path.stat().st_size} bytes, index {manifest.sha256_of(index)}"

    def count_targets(self, first: int, count: int) -> int:
        """Hidden tokens of `count` samples from global index `first` on."""
        before = self._targets_before(first)
        return self._targets_before(first + count) - before

    def arrays(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """A batch by name, [n, sequence_length] each but the last two, [n]:

        tokens, segments int64; targets int64, below 0 where nothing is hidden; present bool, false in padding; with the
        second task order int64 (1: swapped) and order_weights float32: how many hidden tokens an order is worth, so
        that the mean of both losses is over their own number.
        """
        shape = (len(indices), self.sequence_length)
        tokens = np.full(shape, self._reserved.ids["[PAD]"], np.int64)
        targets, segments = np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64)
        present, order = np.zeros(shape, bool), np.zeros(len(indices), np.int64)
        for row, index in enumerate(map(int, indices)):
            text, hidden, lengths, order[row] = self._sample(index)
            places = _places(lengths)
            tokens[row, : len(text) + 1 + len(lengths)] = self._framed(text, lengths)
            tokens[row, places] = text
            targets[row, places] = hidden
            segments[row, lengths[0] + 2 : len(text) + 1 + len(lengths)] = 1
            present[row, : len(text) + 1 + len(lengths)] = True
        batch = {"tokens": tokens, "targets": targets, "segments": segments, "present": present}
        if not self._has_order:
            return batch
        weights = np.full(len(indices), self._per_epoch / self._count, np.float32)
        return {**batch, "order": order, "order_weights": weights}

    def _framed(self, text: np.ndarray, lengths: list[int]) -> np.ndarray:
        """[CLS] and [SEP] at their places; the text's are open."""
        row = np.full(len(text) + 1 + len(lengths), self._reserved.ids["[SEP]"], np.int64)
        row[0] = self._reserved.ids["[CLS]"]
        return row

    def _sample(self, index: int) -> tuple[np.ndarray, np.ndarray, list[int], int]:
        """Text as the model sees it, its targets, the lengths of its segments, 1 if they are swapped."""
        epoch, _ = divmod(index, self._count)
        piece = self._pieces_at(np.array([index]))
        (document,), (start,), (length,) = self._pieces.bounds(piece)
        text = self._pieces.file.document(int(document))[start : start + length].astype(np.int64)
        self._refuse_outside(text)
        random = np.random.default_rng((self._seed or 0, epoch if self._seed is not None else 0, int(piece[0])))
        lengths, swapped = [int(length)], 0
        if self._has_order:
            border, swapped = int(random.integers(1, length)), int(random.random() < 0.5)
            lengths = [border, int(length) - border]
            if swapped:
                text, lengths = np.concatenate((text[border:], text[:border])), lengths[::-1]
        seen, hidden = self._hidden(text, random)
        return seen, hidden, lengths, swapped

    def _hidden(self, text: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The text with tokens hidden, and the targets."""
        chosen = random.permutation(len(text))[: num_hidden(len(text))]
        fate, others = random.random(len(chosen)), random.integers(0, self._reserved.text_ids, len(chosen))
        instead = np.where(fate < AS_MASK, self._reserved.ids["[MASK]"], others)
        seen, targets = text.copy(), np.full(len(text), IGNORED, np.int64)
        seen[chosen] = np.where(fate < AS_MASK + AS_ANY, instead, text[chosen])
        targets[chosen] = text[chosen]
        return seen, targets

    def _refuse_outside(self, text: np.ndarray) -> None:
        if text.min() < 0 or text.max() >= self._reserved.text_ids:
            raise DataError(
                f"{self.path} holds token {text.min() if text.min() < 0 else text.max()}, text may have ids "
                f"0..{self._reserved.text_ids - 1} of the model's vocabulary. Set model.vocabulary to the size of the "
                "tokenizer that made the file and the ids that the task adds (auto does), or prepare the text again"
            )

    def _pieces_at(self, indices: np.ndarray) -> np.ndarray:
        """Numbers of pieces in the whole file, of global indices."""
        epochs, positions = np.divmod(indices, self._count)
        if self._seed is not None:
            for epoch in np.unique(epochs):
                chosen = epochs == epoch
                positions[chosen] = permuted(positions[chosen], self._count, self._seed, int(epoch))
        return self._first + positions

    def _targets_of(self, indices: np.ndarray) -> int:
        return int(num_hidden(self._pieces.bounds(self._pieces_at(indices))[2]).sum())

    def _targets_before(self, index: int) -> int:
        """Whole epochs have each sample once; within one it counts on from where it was asked last."""
        epoch, place = divmod(index, self._count)
        if place == 0:
            return epoch * self._per_epoch
        known, total = self._counted
        if not index - place <= known <= index:
            known, total = index - place, epoch * self._per_epoch
        self._counted = (index, total + self._targets_between(known, index))
        return self._counted[1]

    def _targets_between(self, first: int, last: int) -> int:
        blocks = range(first, last, _BLOCK)
        return sum(self._targets_of(np.arange(start, min(start + _BLOCK, last))) for start in blocks)


def num_hidden(length: Any) -> Any:
    """Of a text of so many tokens, or [n] int64 of each of several."""
    return np.maximum(1, np.floor(np.asarray(length) * MASKED + 0.5)).astype(np.int64)


def room_of(sequence_length: int, has_order: bool) -> int:
    """Tokens of text that a row has place for, beside [CLS] and a [SEP] behind each segment."""
    return sequence_length - (3 if has_order else 2)


def _places(lengths: list[int]) -> np.ndarray:
    """Where the text's tokens stand in a row, behind [CLS] and around the [SEP]s."""
    starts = np.concatenate(([1], 2 + np.cumsum(lengths)[:-1]))
    return np.concatenate([np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])


def open_masked(
    prefix_or_folder: str | Path,
    sequence_length: int,
    reserved: Reserved,
    *,
    seed: int,
    has_order: bool,
    part: Part = "train",
    split: float = 0.0,
    verify: bool = True,
) -> Masked:
    """One part of a token file; the arguments are `open_samples`'s. Raises DataError."""
    prefix, recorded = locate(Path(prefix_or_folder), verify)
    pieces = pieces_of(open_token_file(prefix), room_of(sequence_length, has_order))
    total = pieces.count
    kept = min(total - 1, max(1, round(total * split))) if split > 0 else 0
    first, count = (0, total - kept) if part == "train" else (total - kept, kept)
    if count == 0:
        raise DataError(
            f"{bin_path(prefix)} has {total} sample(s) and data.split={split} leaves none for validation. Name "
            "data.validation, or prepare more text"
        )
    samples = Masked(pieces, sequence_length, reserved, first, count, seed if part == "train" else None, has_order)
    if recorded is not None:
        samples.recorded_sha256 = recorded["files"][samples.path.name]["sha256"]
    return samples
