"""Lines of a text file, plain or gzip, as UTF-8 or not at all; what is wrong is named with file and line."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hanbit.common.errors import DataError

LONGEST_LINE_BYTES = 64 << 20  # memory is bounded by this, whatever the file


@dataclass(frozen=True)
class Line:
    number: int  # from 1
    text: str  # with its newline
    end: int  # bytes of the file on disk read so far


def read_lines(path: Path) -> Iterator[Line]:
    """Raises DataError for bytes that are not UTF-8, lines above 64 MiB and damaged gzip data."""
    with open(path, "rb") as raw:
        file: IO[bytes] = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]
        number = 0
        while line := _next_line(file, path, number + 1):
            number += 1
            yield Line(number, _decoded(line, path, number), raw.tell())


def _next_line(file: IO[bytes], path: Path, number: int) -> bytes:
    try:
        line = file.readline(LONGEST_LINE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
        raise DataError(
            f"{path}:{number}: gzip data is damaged or cut short ({problem}). Fetch the file again"
        ) from None
    if len(line) > LONGEST_LINE_BYTES:
        raise DataError(
            f"{path}:{number}: the line is longer than {LONGEST_LINE_BYTES} bytes. Break it into lines or documents"
        )
    return line


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise DataError(
            f"{path}:{number}: byte 0x{line[problem.start]:02x} at column {problem.start + 1} is not UTF-8. "
            "Convert the file, for example with `iconv -f CP949 -t UTF-8`"
        ) from None
    return text.removeprefix("\ufeff") if number == 1 else text
