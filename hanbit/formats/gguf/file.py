"""A GGUF file, opened: its metadata, and its tensors as blocks or as float32 numbers, read when asked for."""

import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import quant_shape_to_byte_shape

from hanbit.common.errors import FormatError
from hanbit.formats.gguf import dequantise
from hanbit.formats.gguf.header import Place, Value, read_header


class GGUFFile:
    """`path` is mapped, not loaded. Raises FormatError where the header lies, before memory is taken.

    `metadata`: key -> number, text, list of texts or array of numbers; `places`: tensor name -> where and what it is.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._buffer = memoryview(_mapped(self.path))
        header = read_header(self._buffer, self.path)
        self.metadata: Mapping[str, Value] = header.metadata
        self.places: Mapping[str, Place] = header.tensors

    def blocks(self, name: str) -> np.ndarray:
        """The tensor as it lies in the file: uint8, [..., bytes of a row]; the file's memory, not to be written to."""
        place = self.places[name]
        raw = self._buffer[place.offset_bytes : place.offset_bytes + place.num_bytes]
        return np.frombuffer(raw, dtype=np.uint8).reshape(quant_shape_to_byte_shape(place.shape, place.type))

    def numbers(self, name: str) -> np.ndarray:
        """The tensor as float32 in its logical shape. Raises FormatError for types without such a meaning."""
        place = self.places[name]
        return numbers_of(self.blocks(name), place.type, f"{self.path}: tensor {name!r:.100}")


def numbers_of(blocks: np.ndarray, type: GGMLQuantizationType, what: str) -> np.ndarray:
    """Blocks, uint8 [..., bytes of a row], as float32. `what` is what an error calls them."""
    try:
        with np.errstate(all="ignore"):  # scales of a damaged file may be anything; who uses them checks the numbers
            return dequantise.numbers(blocks, type)
    except NotImplementedError:
        raise FormatError(f"{what} is {type.name}, which has no float32 reading here") from None


def _mapped(path: Path) -> mmap.mmap:
    if not path.is_file():
        raise FormatError(f"{path} is not a file. Name a .gguf file")
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:  # what mmap says of an empty file
        raise FormatError(f"{path} is empty. Copy it again") from None
    except OSError as problem:
        raise FormatError(f"{path} cannot be read: {problem.strerror}") from None
