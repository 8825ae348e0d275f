"""Numbers and texts of a GGUF header, one after another; none is taken that the file does not hold."""

import struct
from pathlib import Path

import numpy as np

from hanbit.common.errors import FormatError

_MOST_TEXTS = 4_000_000  # of all arrays: Python keeps some 60 bytes beside each, whatever its length


class Cursor:
    """`buffer`: the whole file, mapped; `offset` moves on by what is taken. Raises FormatError past the end."""

    def __init__(self, buffer: memoryview, path: Path) -> None:
        self.buffer, self.path, self.offset = buffer, path, 0
        self._room_for_texts = _MOST_TEXTS

    @property
    def left_bytes(self) -> int:
        return len(self.buffer) - self.offset

    def refuse(self, message: str) -> FormatError:
        return FormatError(f"{self.path}: {message}")

    def number(self, code: str, what: str) -> int | float:
        """One little-endian number by its letter of `struct`."""
        layout = _LAYOUTS[code]
        self.require(layout.size, what)
        (value,) = layout.unpack_from(self.buffer, self.offset)
        self.offset += layout.size
        return value

    def count(self, code: str, what: str, most: int) -> int:
        value = self.number(code, what)
        assert isinstance(value, int)
        if value > most:
            raise self.refuse(f"{what} is {value}, at most {most} are read. The file is damaged or lies")
        return value

    def text(self, what: str, longest_bytes: int) -> str:
        num_bytes = self.count("Q", f"the length of {what}", longest_bytes)
        self.require(num_bytes, what)
        content = bytes(self.buffer[self.offset : self.offset + num_bytes])
        self.offset += num_bytes
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise self.refuse(f"{what} is not UTF-8: {content[:40]!r}") from None

    def texts(self, what: str, num_texts: int, longest_bytes: int) -> list[str]:
        """Their lengths alone need 8 bytes each: that is checked before a list is begun."""
        self.require(num_texts * 8, what)
        if num_texts > self._room_for_texts:
            raise self.refuse(f"{what} has {num_texts} texts; at most {_MOST_TEXTS} are read of one file")
        self._room_for_texts -= num_texts
        found = self._plain_texts(num_texts, longest_bytes)
        return found + [self.text(what, longest_bytes) for _ in range(num_texts - len(found))]

    def _plain_texts(self, num_texts: int, longest_bytes: int) -> list[str]:
        """Those before the first with anything wrong, which `text` then refuses. A tokenizer has a hundred thousand;
        with calls for each question they took twice as long."""
        buffer, layout, found = self.buffer, _LAYOUTS["Q"], []
        num_bytes, last = len(buffer), len(buffer) - layout.size
        for _ in range(num_texts):
            start = self.offset + layout.size
            if self.offset > last:
                break
            (length,) = layout.unpack_from(buffer, self.offset)
            if length > longest_bytes or start + length > num_bytes:
                break
            try:
                found.append(str(buffer[start : start + length], "utf-8"))
            except UnicodeDecodeError:
                break
            self.offset = start + length
        return found

    def numbers(self, code: str, what: str, num_numbers: int) -> np.ndarray:
        """A copy: the file can be closed."""
        num_bytes = num_numbers * _LAYOUTS[code].size
        self.require(num_bytes, what)
        found = np.frombuffer(self.buffer[self.offset : self.offset + num_bytes], dtype=np.dtype(f"<{code}")).copy()
        self.offset += num_bytes
        return found

    def require(self, num_bytes: int, what: str) -> None:
        if num_bytes > self.left_bytes:
            raise self.refuse(
                f"{what} needs {num_bytes} bytes at byte {self.offset}, the file has {self.left_bytes} there. "
                "It is truncated or lies; copy it again"
            )


_LAYOUTS = {code: struct.Struct(f"<{code}") for code in "BbHhIiQqfd"}
