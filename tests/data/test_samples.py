"""Samples against a plain loop over the tokens; order, parts, damage and the vocabulary."""

import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from hanbit.common.errors import DataError
from hanbit.common.manifest import write_manifest
from hanbit.data.megatron import TokenWriter
from hanbit.data.samples import open_samples, tokenizer_beside


def folder_of(path: Path, documents: list[list[int]], vocabulary: int = 1000, **facts: object) -> Path:
    path.mkdir(exist_ok=True)
    with TokenWriter(path / "tokens", vocabulary) as writer:
        for document in documents:
            writer.add(document)
    write_manifest(path, "tokens", ["tokens.bin", "tokens.idx"], **facts)
    return path


def sliced_plainly(documents: list[list[int]], length: int) -> list[list[int]]:
    row = [token for document in documents for token in document]
    samples = []
    while len(row) > length:
        samples.append(row[: length + 1])
        row = row[length:]
    return samples


def test_the_tokenizer_is_found_by_the_folder_and_by_the_prefix_in_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / unicodedata.normalize("NFD", "한글"), [[1, 2]])
    typed = tmp_path / "한글"
    assert tokenizer_beside(typed) is tokenizer_beside(typed / "tokens") is None
    (folder / "tokenizer").mkdir()
    assert tokenizer_beside(typed) == tokenizer_beside(typed / "tokens") == folder / "tokenizer"
    assert tokenizer_beside(folder / "others") is None


DOCUMENTS = [list(range(start, start + size)) for start, size in [(0, 40), (100, 3), (200, 61), (300, 20)]]


def test_an_epoch_holds_every_sample_of_a_plain_loop_once(tmp_path: Path) -> None:
    samples = open_samples(folder_of(tmp_path, DOCUMENTS), 7, seed=1)
    expected = sliced_plainly(DOCUMENTS, 7)
    assert len(samples) == len(expected) == 17
    for epoch in range(3):
        batch = samples.batch(range(epoch * 17, (epoch + 1) * 17))
        assert batch.dtype == np.int64
        assert sorted(batch.tolist()) == sorted(expected)
        assert batch.tolist() != expected


def test_order_depends_on_seed_and_epoch_but_not_on_how_it_is_asked(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, DOCUMENTS)
    whole = open_samples(folder, 7, seed=1).batch(range(40))
    again = open_samples(folder, 7, seed=1)
    for rank in range(4):
        assert again.batch(range(rank, 40, 4)).tolist() == whole[rank::4].tolist()
    assert whole[:17].tolist() != whole[17:34].tolist()
    assert open_samples(folder, 7, seed=2).batch(range(17)).tolist() != whole[:17].tolist()


def test_validation_is_the_last_part_in_order_and_training_never_sees_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, DOCUMENTS)
    expected = sliced_plainly(DOCUMENTS, 7)
    validation = open_samples(folder, 7, seed=1, part="validation", split=0.2)
    train = open_samples(folder, 7, seed=1, part="train", split=0.2)
    assert (len(train), len(validation)) == (14, 3)
    assert validation.batch(range(6)).tolist() == expected[14:] * 2
    assert sorted(train.batch(range(14)).tolist()) == sorted(expected[:14])


def test_a_small_share_still_keeps_one_sample(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, DOCUMENTS)
    assert len(open_samples(folder, 7, seed=1, part="validation", split=0.001)) == 1


def test_no_validation_to_read_is_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, DOCUMENTS)
    with pytest.raises(DataError, match=r"data\.split=0\.0"):
        open_samples(folder, 7, seed=1, part="validation", split=0.0)


def test_prefix_and_folder_read_the_same(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, DOCUMENTS)
    by_prefix = open_samples(folder / "tokens", 7, seed=1)
    assert by_prefix.batch([3]).tolist() == open_samples(folder, 7, seed=1).batch([3]).tolist()


def test_files_of_megatron_without_a_manifest_are_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, DOCUMENTS)
    (folder / "hanbit.json").unlink()
    assert len(open_samples(folder / "tokens", 7, seed=1)) == 17


def test_too_short_a_file_is_refused_with_the_numbers(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [[1, 2, 3]])
    with pytest.raises(DataError, match=r"3 tokens.*sequence_length=3 needs 4"):
        open_samples(folder, 3, seed=1)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 tokens"):
        open_samples(folder_of(tmp_path, []), 3, seed=1)


def test_every_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [[1, 2, 3], [4, 5]])
    for name in ("tokens.bin", "tokens.idx"):
        whole = (folder / name).read_bytes()
        for bit in range(len(whole) * 8):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(damaged)
            with pytest.raises(DataError, match=name.replace(".", r"\.")):
                open_samples(folder, 2, seed=1)
        (folder / name).write_bytes(whole)


def test_a_token_outside_the_vocabulary_is_refused_with_and_without_a_recorded_largest(tmp_path: Path) -> None:
    for facts in ({}, {"largest_token": 319}):
        samples = open_samples(folder_of(tmp_path, DOCUMENTS, **facts), 7, seed=1)
        samples.check_vocabulary(320)
        with pytest.raises(DataError, match=r"token 319.*0\.\.318"):
            samples.check_vocabulary(319)


def test_a_token_damaged_after_the_check_is_refused_when_it_is_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, DOCUMENTS, largest_token=319)
    samples = open_samples(folder, 7, seed=1)
    samples.check_vocabulary(320)
    with open(folder / "tokens.bin", "r+b") as file:
        file.seek(2 * 5)
        file.write(b"\xff\xff")
    with pytest.raises(DataError, match="token 65535"):
        samples.batch(range(17))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for documents in (10, 1000):
        folder = folder_of(tmp_path / str(documents), [list(range(1000))] * documents)
        tracemalloc.start()
        samples = open_samples(folder, 16, seed=1)
        samples.check_vocabulary(1000)
        samples.batch(range(64))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1_500_000  # one block of the digest; the larger file has 2 MB, its order 0.5 MB


def test_token_files_are_found_in_the_other_spelling_of_unicode(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / unicodedata.normalize("NFD", "말뭉치"), DOCUMENTS)
    for suffix in ("bin", "idx"):
        (folder / f"tokens.{suffix}").rename(tmp_path / unicodedata.normalize("NFD", f"토큰.{suffix}"))
    assert len(open_samples(tmp_path / "토큰", 8, seed=0)) > 0
    assert len(open_samples(folder_of(folder, DOCUMENTS).parent / "말뭉치", 8, seed=0)) > 0
