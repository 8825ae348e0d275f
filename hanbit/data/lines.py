"""Lines of a text file, plain or gzip, as UTF-8 or not at all; what is wrong is named with file and line."""

import codecs
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
    is_whole: bool = True  # False: the line goes on in the next one


def read_lines(path: Path) -> Iterator[Line]:
    """Raises DataError for bytes that are not UTF-8, lines above 64 MiB and damaged gzip data."""
    for piece in read_pieces(path):
        if not piece.is_whole:
            raise DataError(
                f"{path}:{piece.number}: the line is longer than {LONGEST_LINE_BYTES} bytes. Break it into lines or "
                "documents"
            )
        yield piece


def read_pieces(path: Path) -> Iterator[Line]:
    """As `read_lines`, but a line above 64 MiB comes in pieces of at most that, cut between characters."""
    with open(path, "rb") as raw:
        file: IO[bytes] = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]
        number, cut = 1, b""
        while line := cut if cut.endswith(b"\n") else cut + _read_on(file, path, number):
            line, cut = _cut(line)
            yield Line(number, _decoded(line, path, number), raw.tell(), is_whole=not cut)
            number += not cut


def _read_on(file: IO[bytes], path: Path, number: int) -> bytes:
    try:
        return file.readline(LONGEST_LINE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
        raise DataError(
            f"{path}:{number}: gzip data is damaged or cut short ({problem}). Fetch the file again"
        ) from None


def _cut(line: bytes) -> tuple[bytes, bytes]:
    """What is too long, in two; the second part is never empty and does not begin inside a character."""
    if len(line) <= LONGEST_LINE_BYTES:
        return line, b""
    place = LONGEST_LINE_BYTES
    while place > LONGEST_LINE_BYTES - 3 and line[place] & 0b1100_0000 == 0b1000_0000:
        place -= 1
    return line[:place], line[place:]


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise DataError(
            f"{path}:{number}: byte 0x{line[problem.start]:02x} at column {problem.start + 1} is not UTF-8. "
            f"Convert the file, for example with `iconv -f {_likely_encoding(line)} -t UTF-8`"
        ) from None
    return text.removeprefix("\ufeff") if number == 1 else text


def _likely_encoding(line: bytes) -> str:
    """UTF-16, which Windows calls Unicode, has its mark or zero bytes; Korean text of old is the usual rest."""
    has_mark = line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "UTF-16" if has_mark else "UTF-16LE" if b"\0" in line else "CP949"
