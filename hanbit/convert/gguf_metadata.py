"""What a GGUF file says of its model, asked by key and type; a wrong answer is named with file, key, value and rule."""

from typing import Any

import numpy as np

from hanbit.common.errors import FormatError
from hanbit.formats.gguf.file import GGUFFile

_LARGEST_COUNT = 2**24  # of heads, widths, tokens; beyond it is a lie or a mistake


class Metadata:
    """A default of `...` means that the key must be there. Raises FormatError."""

    def __init__(self, file: GGUFFile) -> None:
        self.path, self._values = file.path, file.metadata

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def below(self, prefix: str) -> list[str]:
        return [key for key in self._values if key.startswith(prefix)]

    def refuse(self, key: str, rule: str) -> FormatError:
        return FormatError(f"{self.path}: {key}={_short(self._values.get(key))} {rule}")

    def count(self, key: str, default: Any = ..., most: int = _LARGEST_COUNT) -> int:
        """A whole number from 1 to `most`."""
        value = self._wanted(key, int, default)
        if value is not default and not 1 <= value <= most:
            raise self.refuse(key, f"must be from 1 to {most}")
        return value

    def number(self, key: str, default: Any = ...) -> float:
        """As float32 has it, in the fewest digits: 1e-05, not 9.999999747378752e-06, which is the same float32."""
        value = self._wanted(key, (int, float), default)
        if value is not default and not (np.isfinite(value) and value > 0):
            raise self.refuse(key, "must be a number above 0")
        return value if value is default or isinstance(value, int) else float(str(np.float32(value)))

    def text(self, key: str, default: Any = ...) -> str:
        return self._wanted(key, str, default)

    def truth(self, key: str, default: Any = ...) -> bool:
        return self._wanted(key, bool, default)

    def texts(self, key: str) -> list[str]:
        return self._wanted(key, list, ...)

    def whole_numbers(self, key: str, default: Any = ...) -> list[int]:
        found = self._wanted(key, np.ndarray, default)
        if found is default:
            return found
        if found.dtype.kind not in "iu":
            raise self.refuse(key, "must be an array of whole numbers")
        return found.tolist()

    def index(self, key: str, length: int) -> int | None:
        """A place in a list of `length`; None where the key is absent."""
        value = self._wanted(key, int, None)
        if value is not None and not 0 <= value < length:
            raise self.refuse(key, f"must be from 0 to {length - 1}")
        return value

    def _wanted(self, key: str, kind: type | tuple[type, ...], default: Any) -> Any:
        if key not in self._values:
            if default is ...:
                raise FormatError(f"{self.path} has no {key}, without which the model is unknown")
            return default
        value = self._values[key]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.refuse(key, f"must be {' or '.join(one.__name__ for one in kinds)}")
        return value


def _short(value: Any) -> str:
    """What a hostile file holds is not repeated at any length."""
    if isinstance(value, list | np.ndarray):
        return f"(an array of {len(value)})"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
