"""One JSON object a line, the document under one key (`text` unless another is named).

Blank lines are skipped, null is an empty text."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hanbit.common.errors import DataError
from hanbit.data.lines import Line, read_lines

SUFFIXES = (".jsonl", ".jsonl.gz")


def documents(path: Path, text_key: str) -> Iterator[tuple[str, int]]:
    for line in read_lines(path):
        if line.text.strip():
            yield _text_of(parsed(line, path), path, line.number, text_key), line.end


def parsed(line: Line, path: Path) -> dict[str, Any]:
    """The object of a line; DataError with file:line on anything else."""
    try:
        value = json.loads(line.text)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{path}:{line.number}: not JSON ({problem}). Every line holds one object") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:{line.number}: a JSON {type(value).__name__}, expected an object")
    return value


def _text_of(value: dict[str, Any], path: Path, number: int, key: str) -> str:
    text = value.get(key)
    if text is None and key in value:
        return ""
    if not isinstance(text, str):
        found = f"key {key!r} holds a {type(text).__name__}" if key in value else f"no key {key!r}"
        near = difflib.get_close_matches(key, [name for name, item in value.items() if isinstance(item, str)], 1, 0.0)
        way_out = f"Name the key that holds the text: --text-key {near[0]}" if near else "Give every line a text"
        raise DataError(f"{path}:{number}: {found}; the object has {sorted(value)}. {way_out}")
    if not text.isascii():
        _refuse_surrogates(text, path, number)
    return text


def _refuse_surrogates(text: str, path: Path, number: int) -> None:
    """JSON may escape half of a surrogate pair, which no UTF-8 text can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise DataError(
            f"{path}:{number}: half a surrogate pair (\\u{ord(text[problem.start]):04x}) at character "
            f"{problem.start + 1} of the text is not UTF-8. Remove it or write the whole pair"
        ) from None
