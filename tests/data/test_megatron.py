"""Token files against a reader made of `struct` alone, and against every kind of damage."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanbit.common.errors import DataError
from hanbit.data import megatron
from hanbit.data.megatron import TokenWriter, open_token_file, token_dtype, write_index

DOCUMENTS = [[5, 6, 7], [8], [], [9, 10]]


def write(prefix: Path, documents: list[list[int]], vocabulary: int = 100) -> None:
    with TokenWriter(prefix, vocabulary) as writer:
        for document in documents:
            writer.add(document)


def read_plainly(prefix: Path) -> list[list[int]]:
    """The format read with nothing but struct, from Megatron-LM's description of it."""
    index = Path(f"{prefix}.idx").read_bytes()
    content = Path(f"{prefix}.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, marks = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    letter, width = {8: ("H", 2), 4: ("i", 4)}[code]
    lengths = struct.unpack_from(f"<{sequences}i", index, 34)
    starts = struct.unpack_from(f"<{sequences}q", index, 34 + 4 * sequences)
    ends = struct.unpack_from(f"<{marks}q", index, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * marks
    assert ends == tuple(range(sequences + 1))
    assert len(content) == width * sum(lengths)
    return [
        list(struct.unpack_from(f"<{length}{letter}", content, start))
        for start, length in zip(starts, lengths, strict=True)
    ]


@pytest.mark.parametrize("vocabulary", [100, 200_000])
def test_a_plain_reader_gets_the_documents_back(tmp_path: Path, vocabulary: int) -> None:
    write(tmp_path / "t", DOCUMENTS, vocabulary)
    assert read_plainly(tmp_path / "t") == DOCUMENTS


@settings(max_examples=30, deadline=None)
@given(documents=st.lists(st.lists(st.integers(0, 65499), max_size=5), max_size=20))
def test_our_reader_and_the_plain_one_agree(tmp_path_factory: pytest.TempPathFactory, documents: list) -> None:
    prefix = tmp_path_factory.mktemp("pair") / "t"
    write(prefix, documents, 65499)
    file = open_token_file(prefix)
    assert [file.document(i).tolist() for i in range(file.documents)] == documents == read_plainly(prefix)
    assert file.tokens.tolist() == [token for document in documents for token in document]


def test_two_bytes_a_token_below_65500() -> None:
    assert token_dtype(65499) == np.uint16
    assert token_dtype(65500) == np.int32


def test_blocks_of_the_index_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(megatron, "_BLOCK_DOCUMENTS", 3)
    documents = [[i] * (i % 4) for i in range(20)]
    write(tmp_path / "t", documents)
    assert read_plainly(tmp_path / "t") == documents
    assert open_token_file(tmp_path / "t").document(7).tolist() == documents[7]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t", DOCUMENTS)
    for name in ("t.idx", "t.bin"):
        whole = (tmp_path / name).read_bytes()
        for size in range(len(whole)):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(DataError, match=name.replace(".", r"\.")):
                open_token_file(tmp_path / "t")
        (tmp_path / name).write_bytes(whole)


def test_every_flipped_bit_of_the_index_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t", [[1, 2, 3]])
    whole = (tmp_path / "t.idx").read_bytes()
    for bit in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "t.idx").write_bytes(damaged)
        with pytest.raises(DataError, match=r"t\.(idx|bin)"):
            open_token_file(tmp_path / "t")


def test_counts_that_lie_are_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 2**62, 2**62)
    (tmp_path / "t.idx").write_bytes(header)
    (tmp_path / "t.bin").write_bytes(b"")
    with pytest.raises(DataError, match=f"counts {2**62} sequences"):
        open_token_file(tmp_path / "t")


def test_an_index_of_another_corpus_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t", DOCUMENTS)
    write_index(tmp_path / "t.idx", np.dtype("<u2"), np.array([3, 4], np.int32))
    with pytest.raises(DataError, match=r"12 bytes.*7 tokens"):
        open_token_file(tmp_path / "t")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.idx is missing"):
        open_token_file(tmp_path / "t")


def test_a_failed_write_leaves_no_index(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path / "t", 100)
    writer.add([1])
    with pytest.raises(OverflowError), writer:
        writer.add([70_000])
    assert not (tmp_path / "t.idx").exists()
