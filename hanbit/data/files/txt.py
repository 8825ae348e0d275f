"""Plain text: a file is one document. A file beyond 1 MiB is cut at the first blank line after each MiB (at the latest
at the first line end after 2 MiB, or 64 MiB into a line), so that a book of any length needs little memory."""

from collections.abc import Iterator
from pathlib import Path

from hanbit.data.lines import read_pieces

SUFFIXES = (".txt", ".txt.gz")

CUT_CHARACTERS = 1 << 20


def documents(path: Path, text_key: str) -> Iterator[tuple[str, int]]:
    """`text_key` has no meaning here. Text comes as it is, newlines included; a byte order mark is left out."""
    lines: list[str] = []
    size = end = 0
    for line in read_pieces(path):
        lines.append(line.text)
        size += len(line.text)
        end = line.end
        if size >= CUT_CHARACTERS and (not line.text.strip() or size >= 2 * CUT_CHARACTERS):
            yield "".join(lines), end
            lines, size = [], 0
    if lines:
        yield "".join(lines), end
