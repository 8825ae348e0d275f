"""Parquet: one document a row, under one string column (`text` unless another is named), streamed in small batches.

A null is an empty text: a row of a scraped table without its text is no reason to end hours of work."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow
from pyarrow import parquet

from hanbit.common.errors import DataError

SUFFIXES = (".parquet",)

_BATCH_ROWS = 256


def documents(path: Path, text_key: str) -> Iterator[tuple[str, int]]:
    size = path.stat().st_size
    with _damage_named(path), parquet.ParquetFile(path, pre_buffer=False) as file:
        _check_column(file, path, text_key)
        rows, row = file.metadata.num_rows, 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[text_key], use_threads=False):
            for value in batch.column(0):
                row += 1
                yield _text_of(value, path, row, text_key), size * row // rows


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError) as problem:
        raise DataError(f"{path} is not readable as Parquet ({problem}). Fetch or write the file again") from None


def _check_column(file: parquet.ParquetFile, path: Path, name: str) -> None:
    schema = file.schema_arrow
    strings = [field.name for field in schema if _is_string(field.type)]
    if name not in strings:
        found = f"column {name!r} holds {schema.field(name).type}" if name in schema.names else f"no column {name!r}"
        way_out = f"Columns with text: {strings}; choose one with --text-key" if strings else "It has no text column"
        raise DataError(f"{path}: {found}. {way_out}")


def _is_string(kind: pyarrow.DataType) -> bool:
    """Text in any of Arrow's ways; pandas' categories are dictionaries."""
    types = pyarrow.types
    if types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _text_of(value: pyarrow.Scalar, path: Path, row: int, name: str) -> str:
    try:
        return value.as_py() or ""
    except UnicodeDecodeError as problem:
        raise DataError(f"{path}: row {row} of column {name!r} is not UTF-8 ({problem}). Convert the text") from None
