"""Megatron's indexed dataset: `PREFIX.bin` holds all tokens in one row, `PREFIX.idx` says where documents begin.

Layout of the index, little-endian, as megatron/core/datasets/indexed_dataset.py of Megatron-LM writes it:

    9 bytes   b"MMIDIDX\\x00\\x00"
    uint64    version, 1
    uint8     code of the token's dtype (`_DTYPES`)
    uint64    S, number of sequences (here one per document)
    uint64    D, number of document marks (documents + 1)
    int32[S]  tokens in each sequence
    int64[S]  byte at which each sequence starts in the .bin
    int64[D]  first sequence of each document, and S as the last mark

Everything is read and written in blocks, so memory does not grow with the corpus. The reader trusts nothing: counts
are compared with the file sizes before a byte behind them is used.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from hanbit.common.atomic import atomic_file
from hanbit.common.errors import DataError

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floats: not tokens
_BLOCK_DOCUMENTS = 1 << 16
_AGAIN = "Make it again with `hanbit prepare`, or restore it from a copy"


def bin_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".idx")


def token_dtype(vocabulary: int) -> np.dtype:
    """Megatron's rule: two bytes a token below 65500 tokens, else four."""
    return np.dtype("<u2" if vocabulary < 65500 else "<i4")


@dataclass(frozen=True)
class TokenFile:
    """An opened and checked pair of files. Arrays are memory maps: nothing is read until it is asked for."""

    prefix: Path
    tokens: np.ndarray  # [tokens], all documents one after another
    lengths: np.ndarray  # [documents] int32
    starts: np.ndarray  # [documents] int64, in bytes

    @property
    def documents(self) -> int:
        return len(self.lengths)

    def document(self, index: int) -> np.ndarray:
        """Tokens of one document, a view into the map."""
        start = int(self.starts[index]) // self.tokens.itemsize
        return self.tokens[start : start + int(self.lengths[index])]


def open_token_file(prefix: Path) -> TokenFile:
    """Open `prefix.bin` and `prefix.idx`; raises DataError where they are missing, damaged or disagree."""
    index, content = idx_path(prefix), bin_path(prefix)
    for path in (index, content):
        if not path.is_file():
            raise DataError(f"{path} is missing. `hanbit prepare SOURCE --output FOLDER` makes it")
    dtype, num_sequences, num_marks = _read_header(index)
    lengths = _mapped(index, "<i4", _HEADER.size, num_sequences)
    starts = _mapped(index, "<i8", _HEADER.size + 4 * num_sequences, num_sequences)
    marks = _mapped(index, "<i8", _HEADER.size + 12 * num_sequences, num_marks)
    _check_marks(index, marks, num_sequences)
    total = _check_starts(index, lengths, starts, dtype.itemsize)
    size = content.stat().st_size
    if size != total * dtype.itemsize:
        raise DataError(
            f"{content} has {size} bytes, {index.name} describes {total} tokens of {dtype.itemsize} bytes "
            f"({total * dtype.itemsize} bytes): one of them is truncated or belongs to another corpus. {_AGAIN}"
        )
    return TokenFile(prefix, _mapped(content, dtype, 0, total), lengths, starts)


def _read_header(path: Path) -> tuple[np.dtype, int, int]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise DataError(f"{path} has {size} bytes, an index has at least {_HEADER.size}: it is truncated. {_AGAIN}")
    magic, version, code, num_sequences, num_marks = _HEADER.unpack(head)
    if magic != _MAGIC:
        raise DataError(f"{path} begins with {magic!r}, a Megatron index with {_MAGIC!r}: it is another kind of file")
    if version != _VERSION:
        raise DataError(f"{path} has version {version}, this reader knows version {_VERSION}. {_AGAIN}")
    if code not in _DTYPES:
        raise DataError(f"{path} has dtype code {code}, token files have one of {sorted(_DTYPES)}. {_AGAIN}")
    expected = _HEADER.size + 12 * num_sequences + 8 * num_marks
    if size != expected:
        raise DataError(
            f"{path} has {size} bytes, its header counts {num_sequences} sequences and {num_marks} document marks "
            f"({expected} bytes): it is truncated or damaged. {_AGAIN}"
        )
    return np.dtype(_DTYPES[code]), num_sequences, num_marks


def _mapped(path: Path, dtype: str | np.dtype, offset: int, count: int) -> np.ndarray:
    if count == 0:  # a map of no bytes is refused by the system
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r", offset, shape=(count,))


def _check_marks(path: Path, marks: np.ndarray, num_sequences: int) -> None:
    whole = len(marks) > 0 and marks[0] == 0 and marks[-1] == num_sequences
    for first in range(0, len(marks), _BLOCK_DOCUMENTS):
        block = marks[first : first + _BLOCK_DOCUMENTS + 1]
        whole = whole and bool((np.diff(block) >= 0).all())
    if not whole:
        raise DataError(f"{path}: document marks do not rise from 0 to {num_sequences}: it is damaged. {_AGAIN}")


def _check_starts(path: Path, lengths: np.ndarray, starts: np.ndarray, itemsize: int) -> int:
    """Sequences must follow each other without a gap, because training reads the .bin as one row. Returns tokens."""
    total = 0
    for first in range(0, len(lengths), _BLOCK_DOCUMENTS):
        block = np.asarray(lengths[first : first + _BLOCK_DOCUMENTS], np.int64)
        ends = total + np.cumsum(block)
        wrong = (block < 0) | (starts[first : first + len(block)] != (ends - block) * itemsize)
        if wrong.any():
            at = first + int(wrong.argmax())
            raise DataError(
                f"{path}: sequence {at} ({lengths[at]} tokens at byte {starts[at]}) does not follow the one before it: "
                f"the index is damaged. {_AGAIN}"
            )
        total = int(ends[-1])
    return total


def write_index(path: Path, dtype: np.dtype, lengths: np.ndarray) -> None:
    """Write the index of documents with these token counts ([documents] int32, a memory map is fine), atomically."""
    code = next(code for code, name in _DTYPES.items() if np.dtype(name) == dtype)
    with atomic_file(path) as file:
        file.write(_HEADER.pack(_MAGIC, _VERSION, code, len(lengths), len(lengths) + 1))
        for first in range(0, len(lengths), _BLOCK_DOCUMENTS):
            file.write(np.ascontiguousarray(lengths[first : first + _BLOCK_DOCUMENTS], "<i4").data)
        total = 0
        for first in range(0, len(lengths), _BLOCK_DOCUMENTS):
            block = np.asarray(lengths[first : first + _BLOCK_DOCUMENTS], np.int64)
            ends = total + np.cumsum(block)
            file.write(((ends - block) * dtype.itemsize).astype("<i8").data)
            total = int(ends[-1])
        for first in range(0, len(lengths) + 1, _BLOCK_DOCUMENTS):
            file.write(np.arange(first, min(first + _BLOCK_DOCUMENTS, len(lengths) + 1), dtype="<i8").data)


class TokenWriter:
    """Write a small corpus in one go: `with TokenWriter(prefix, vocabulary) as writer: writer.add(ids)`.

    The index appears when the block ends without an exception. Large corpora go through `prepare`, which resumes.
    """

    def __init__(self, prefix: Path, vocabulary: int) -> None:
        self.prefix = prefix
        self.dtype = token_dtype(vocabulary)
        self._lengths: list[int] = []
        self._file: IO[bytes] = open(bin_path(prefix), "wb")  # noqa: SIM115 - closed by __exit__

    def add(self, tokens: Sequence[int] | np.ndarray) -> None:
        """Append one document, its end-of-document id included by the caller."""
        self._file.write(np.asarray(tokens, dtype=self.dtype).data)
        self._lengths.append(len(tokens))

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            write_index(idx_path(self.prefix), self.dtype, np.asarray(self._lengths, "<i4"))
