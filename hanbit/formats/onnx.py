"""Which other files an ONNX file reads, found without the onnx package: tensors may keep their data beside it.

A file from anywhere may name any place, so names are held to the file's own folder before anybody opens them: no way
up, no link, no second name of a file. The walk reads protobuf's wire format with the few messages of onnx.proto3 that
lead to tensors; what is in them is skipped, not read.
"""

import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hanbit.common.errors import FormatError

# message -> its fields that are messages on the way to a tensor (onnx.proto3)
_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_MOST_DEPTH = 200  # of messages in messages
_MOST_NAME = 4096


def check_external_files(path: Path) -> None:
    """Raises FormatError for a file that is no protobuf, or that reads what does not lie beside it."""
    for location in sorted(external_locations(path)):
        _check_location(path, location)


def external_locations(path: Path) -> set[str]:
    """As the file writes them. Raises FormatError."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)
            try:
                return {_text(path, one) for one in _locations(view, 0, len(view), "model", 0)}
            except _Damaged as problem:
                raise FormatError(f"{path} is no ONNX file: {problem}") from None
            finally:
                view.release()
    except ValueError:  # an empty file cannot be mapped
        raise FormatError(f"{path} is empty") from None
    except OSError as problem:
        raise FormatError(f"{path} cannot be read: {problem.strerror}") from None


class _Damaged(Exception):
    pass


def _locations(data: memoryview, start: int, end: int, message: str, depth: int) -> Iterator[bytes]:
    """The value of each tensor's entry `location`."""
    if depth > _MOST_DEPTH:
        raise _Damaged("it is nested too deeply")
    inner = _FIELDS[message]
    entry = {}
    for number, begin, stop in _fields(data, start, end):
        if message == "entry":
            entry[number] = bytes(data[begin : min(stop, begin + _MOST_NAME + 1)])
        elif number in inner:
            yield from _locations(data, begin, stop, inner[number], depth + 1)
    if entry.get(1) == b"location":
        yield entry.get(2, b"")


def _fields(data: memoryview, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, begin, end) of the fields that have a length; the others are skipped."""
    while place < end:
        key, place = _varint(data, place, end)
        kind = key & 7
        if kind == 0:
            _, place = _varint(data, place, end)
        elif kind == 2:
            size, place = _varint(data, place, end)
            if size > end - place:
                raise _Damaged("a field is longer than what holds it")
            yield key >> 3, place, place + size
            place += size
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise _Damaged(f"there is no wire type {kind}")
    if place != end:
        raise _Damaged("a field is cut off")


def _varint(data: memoryview, place: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise _Damaged("a number is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _Damaged("a number has more than 64 bits")


def _text(path: Path, location: bytes) -> str:
    try:
        text = location.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{path} names a file that is no text") from None
    if not text or len(location) > _MOST_NAME or "\0" in text:
        raise FormatError(f"{path} has a tensor whose data lie in a file with no name, or with too long a one")
    return text


def _check_location(path: Path, location: str) -> None:
    what = f"{path} reads {location!r:.120}"
    parts = location.split("/")
    if location.startswith("/") or "\\" in location or ":" in location or ".." in parts:
        raise FormatError(f"{what}, which is outside its folder. Keep its data beside it")
    place = path.parent
    for part in parts:
        place = place / part
        try:
            found = os.lstat(place)
        except OSError as problem:
            raise FormatError(f"{what}, which cannot be read: {problem.strerror}") from None
        if stat.S_ISLNK(found.st_mode):
            raise FormatError(f"{what}, which is a link. Put the file itself there")
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise FormatError(f"{what}, which is no file of its own (a folder, a device, or a hard link)")
