"""Blends against a plain loop over their sources; the document arrays against running through the tokens."""

from pathlib import Path

import numpy as np
import pytest

from hanbit.common.errors import DataError
from hanbit.data.apart import packed
from hanbit.data.blend import Blend
from hanbit.data.megatron import TokenWriter
from hanbit.data.numbered import Numbered
from hanbit.data.samples import Samples, open_samples


def source(path: Path, first: int, documents: list[int], length: int = 8, **options: str) -> Samples:
    """Tokens count up from `first`, so that every token names its place; `documents`: their lengths."""
    with TokenWriter(path, 100_000) as writer:
        for size in documents:
            writer.add(np.arange(first, first + size))
            first += size
    return open_samples(path, length, seed="7", **options)  # type: ignore[arg-type]


def test_a_blend_is_its_sources_taken_in_turn(tmp_path: Path) -> None:
    small, large = source(tmp_path / "s", 0, [41]), source(tmp_path / "l", 1000, [801])
    blend = Blend({"small": small, "large": large}, [0.25, 0.75])
    rows = blend.arrays(range(80))["tokens"]
    from_small, from_large = rows[rows[:, 0] < 1000], rows[rows[:, 0] >= 1000]
    assert from_small.tolist() == small.arrays(range(20))["tokens"].tolist()
    assert from_large.tolist() == large.arrays(range(60))["tokens"].tolist()
    epochs = from_small[:, 0].reshape(4, 5)
    assert all(sorted(epoch) == [0, 8, 16, 24, 32] for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1, "an epoch is shuffled anew"


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_any_number_of_ranks_reads_the_same_samples(tmp_path: Path, ranks: int) -> None:
    def opened() -> Blend:
        parts: dict[str, Numbered] = {"a": source(tmp_path / "a", 0, [90], packing="documents")}
        return Blend({**parts, "b": source(tmp_path / "b", 500, [30, 33], packing="documents")}, [2, 1])

    whole = opened().arrays(range(48))
    share = 48 // ranks
    for rank in range(ranks):
        part = opened().arrays(range(rank * share, (rank + 1) * share))
        for name, array in part.items():
            assert array.tolist() == whole[name][rank * share : (rank + 1) * share].tolist()


def test_without_weights_the_sizes_are_the_weights(tmp_path: Path) -> None:
    blend = Blend({"a": source(tmp_path / "a", 0, [81]), "b": source(tmp_path / "b", 500, [241])}, None)
    assert [one.share for one in blend.drawn(40)] == [0.25, 0.75]
    assert len(blend) == 40
    assert sorted(blend.arrays(range(40))["tokens"][:, 0].tolist()) == [*range(0, 80, 8), *range(500, 740, 8)]


def test_what_is_drawn_is_what_is_read(tmp_path: Path) -> None:
    blend = Blend({"a": source(tmp_path / "a", 0, [81]), "b": source(tmp_path / "b", 500, [241])}, [1, 2])
    drawn = blend.drawn(61)
    read = blend.arrays(range(61))["tokens"][:, 0]
    assert [one.samples for one in drawn] == [int((read < 500).sum()), int((read >= 500).sum())]
    assert [one.passes for one in drawn] == [one.samples / one.epoch for one in drawn]


def test_documents_and_positions_are_those_of_a_walk_through_the_tokens(tmp_path: Path) -> None:
    sizes = [5, 0, 1, 30, 8, 0, 0, 2, 20]
    samples = source(tmp_path / "t", 0, sizes, packing="documents")
    owner = [document for document, size in enumerate(sizes) for _ in range(size)]
    batch = samples.arrays(range(len(samples)))
    for row in range(len(samples)):
        tokens = batch["tokens"][row].tolist()
        owners = [owner[token] for token in tokens]
        assert batch["documents"][row].tolist() == [len({*owners[: at + 1]}) - 1 for at in range(len(owners))]
        assert batch["positions"][row].tolist() == [at - owners.index(one) for at, one in enumerate(owners)]
        wanted = [token + 1 if owner[token + 1] == owner[token] else -1 for token in tokens]
        assert batch["targets"][row].tolist() == wanted


def test_targets_are_counted_without_reading_them(tmp_path: Path) -> None:
    parts: dict[str, Numbered] = {"a": source(tmp_path / "a", 0, [5, 0, 1, 30, 8, 0, 0, 2, 20], packing="documents")}
    blend = Blend({**parts, "b": source(tmp_path / "b", 500, [30, 3, 3, 30], packing="documents")}, [0.3, 0.7])
    for data in (parts["a"], blend):
        counts = (data.arrays(range(60))["targets"] >= 0).sum(1)
        for first, count in [(0, 0), (0, 1), (3, 17), (8, 8), (0, 60), (13, 40)]:
            assert data.count_targets(first, count) == counts[first : first + count].sum()


@pytest.mark.parametrize("split", ["6,3,1", "969,30,1", "2,1", "0,1,1"])
def test_megatrons_split_shares_out_documents(tmp_path: Path, split: str) -> None:
    """Borders as `int(round(share * documents))` of Megatron-LM's blended_megatron_dataset_builder."""
    source(tmp_path / "t", 0, [20] * 10)
    shares = [float(part) for part in split.split(",")]
    borders = [round(sum(shares[:place]) / sum(shares) * 10) for place in range(4)]
    for place, part in enumerate(("train", "validation", "test")):
        documents = borders[place + 1] - borders[place]
        if documents == 0:
            with pytest.raises(DataError, match=f"leaves none for {part}"):
                open_samples(tmp_path / "t", 8, seed=0, split=split, part=part)  # type: ignore[arg-type]
            continue
        samples = open_samples(tmp_path / "t", 8, seed=0, split=split, part=part)  # type: ignore[arg-type]
        first = borders[place] * 20
        expected = [first + 8 * index for index in range((documents * 20 - 1) // 8)]
        assert sorted(samples.batch(range(len(samples)))[:, 0].tolist()) == expected


def test_packing_loses_no_document_and_overfills_no_row() -> None:
    lengths = [int(length) for length in np.random.default_rng(3).integers(1, 65, 400)]
    rows = packed(lengths, 64)
    assert sorted(document for row in rows for document in row) == list(range(400))
    assert all(sum(lengths[document] for document in row) <= 64 for row in rows)
    assert len(rows) <= 1.03 * sum(lengths) / 64, "nearly as few rows as the tokens need"
    assert rows == packed(lengths, 64)
