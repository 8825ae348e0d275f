"""BERT's samples against what they must be, token by token."""

from pathlib import Path

import numpy as np
import pytest

from hanbit.common.errors import DataError
from hanbit.data.masked import Masked, pieces_of
from hanbit.data.megatron import TokenWriter, open_token_file
from hanbit.data.reserved import BERT_TOKENS, Reserved, reserve

LENGTHS = [1, 2, 29, 30, 61, 200]
LENGTH = 32  # room for 29 tokens of text
RESERVED = reserve(BERT_TOKENS, None, 5004)
CLS, SEP, MASK, PAD = (RESERVED.ids[token] for token in BERT_TOKENS)


def masked(folder: Path, seed: int | None = 3, has_order: bool = True, reserved: Reserved = RESERVED) -> Masked:
    """Documents of 1000, 1001 ..., 2000, 2001 ... and so on."""
    with TokenWriter(folder / "tokens", 5000) as writer:
        for number, length in enumerate(LENGTHS):
            writer.add(np.arange(length) + 500 * (number + 1))
    pieces = pieces_of(open_token_file(folder / "tokens"), LENGTH - 3)
    return Masked(pieces, LENGTH, reserved, 0, pieces.count, seed, has_order)


def text_of(row: dict[str, np.ndarray]) -> np.ndarray:
    """What was there before tokens were hidden, frame and padding left out."""
    whole = np.where(row["targets"] >= 0, row["targets"], row["tokens"])
    return whole[~np.isin(whole, [CLS, SEP, PAD])]


def rows_of(samples: Masked, first: int, count: int) -> list[dict[str, np.ndarray]]:
    batch = samples.arrays(range(first, first + count))
    return [{name: array[row] for name, array in batch.items()} for row in range(count)]


def test_an_epoch_has_every_token_of_documents_that_can_be_cut_once(tmp_path: Path) -> None:
    samples = masked(tmp_path)
    found = np.concatenate([text_of(row) for row in rows_of(samples, len(samples), len(samples))])  # the second epoch
    wanted = np.concatenate([np.arange(length) + 500 * (i + 1) for i, length in enumerate(LENGTHS) if length > 1])
    assert np.array_equal(np.sort(found), wanted)
    assert len(samples) == 1 + 1 + 2 + 3 + 7  # 30 tokens are two pieces of 15, 200 are seven


def test_a_pair_is_framed_and_swapped_as_its_order_says(tmp_path: Path) -> None:
    orders = []
    samples = masked(tmp_path)
    for row in rows_of(samples, 0, 4 * len(samples)):
        used = int(row["present"].sum())
        assert row["present"][:used].all()
        assert (row["tokens"][used:] == PAD).all()
        assert (row["tokens"][0], row["tokens"][used - 1]) == (CLS, SEP)
        middle = int(np.flatnonzero(row["tokens"] == SEP)[0])
        assert np.array_equal(row["segments"][:used], np.arange(used) > middle)
        steps = np.diff(text_of(row))  # a document counts up: where it does not, a swap was made
        assert list(np.flatnonzero(steps != 1)) == ([middle - 2] if row["order"] else [])
        orders.append(int(row["order"]))
    assert 0.25 < np.mean(orders) < 0.75


def test_a_sixth_of_the_text_is_hidden_four_fifths_of_it_behind_the_mask(tmp_path: Path) -> None:
    samples = masked(tmp_path)
    batch = samples.arrays(range(100 * len(samples)))
    hidden = batch["targets"] >= 0
    text = batch["present"] & ~np.isin(batch["tokens"], [CLS, SEP])
    assert (hidden <= text).all()
    assert hidden.sum() / text.sum() == pytest.approx(0.15, abs=0.01)
    is_mask, stayed = batch["tokens"] == MASK, batch["tokens"] == batch["targets"]
    assert (is_mask <= hidden).all()
    assert is_mask.sum() / hidden.sum() == pytest.approx(0.8, abs=0.02)
    assert stayed.sum() / hidden.sum() == pytest.approx(0.1, abs=0.02)


def test_targets_are_counted_as_they_are(tmp_path: Path) -> None:
    samples = masked(tmp_path)
    for first, count in ((0, 8), (8, 8), (16, 8), (5, 3), (0, 24), (13, 15), (40, 2)):
        counted = samples.count_targets(first, count)
        assert counted == (samples.arrays(range(first, first + count))["targets"] >= 0).sum()


def test_a_sample_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    one, other = masked(tmp_path), masked(tmp_path, seed=4)
    whole = one.arrays(range(20))
    for name, array in one.arrays([11, 3]).items():
        assert np.array_equal(array, whole[name][[11, 3]])
    assert not np.array_equal(whole["tokens"], other.arrays(range(20))["tokens"])
    first, second = one.arrays(range(len(one))), one.arrays(range(len(one), 2 * len(one)))
    assert not np.array_equal(np.sort(first["targets"].sum(1)), np.sort(second["targets"].sum(1)))


def test_without_the_second_task_a_piece_is_one_segment(tmp_path: Path) -> None:
    for row in rows_of(masked(tmp_path, has_order=False), 0, 14):
        assert (row["tokens"] == SEP).sum() == 1
        assert not row["segments"].any()
        assert "order" not in row


def test_text_in_the_ids_of_the_task_is_refused(tmp_path: Path) -> None:
    samples = masked(tmp_path, reserved=reserve(BERT_TOKENS, None, 600))
    with pytest.raises(DataError, match=r"holds token \d+, text may have ids 0\.\.595"):
        samples.arrays(range(14))
