"""System shared memory: regions of this machine's memory that clients registered by name, for inputs and outputs.

Off unless the server was told to allow it: whoever may register reads and writes memory of other processes of the same
user. Regions are files under /dev/shm, opened without following links, and read and written, not mapped: a client that
cuts its memory short gets an error and cannot end the server, and giving a region back never disturbs a request.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.server.errors import RequestError, invalid
from hanbit.server.tensors import Raw

_FOLDER = Path("/dev/shm")
_KEY = re.compile(r"/?[A-Za-z0-9_][A-Za-z0-9._-]{0,249}")
_RESERVED = ("triton_python_backend_shm_region_", "hanbit", "sem.")  # what servers keep for themselves
_MOST_REGIONS = 1024
_LONGEST_NAME = 256
_MOST_BYTES = 2**63 - 1


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: `offset` counts from the region's beginning."""

    region: str
    offset: int
    byte_size: int


@dataclass(frozen=True)
class _Region:
    """`descriptor` is open as long as the region is there."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.byte_size}


class SharedMemory:
    """Used on the event loop. `is_allowed`: else there are no regions and none can be registered."""

    def __init__(self, is_allowed: bool = False) -> None:
        self.is_allowed = is_allowed
        self._regions: dict[str, _Region] = {}

    def register(self, name: str, key: Any, offset: Any, byte_size: Any) -> None:
        """Raises RequestError where it is not allowed, there is no such memory, or the region would go beyond it."""
        if not self.is_allowed:
            raise RequestError("unsupported", "shared memory is off: start the server with --allow-client-shm true")
        if not 1 <= len(name) <= _LONGEST_NAME:
            raise invalid(f"a region's name has from 1 to {_LONGEST_NAME} characters")
        if name in self._regions:
            raise RequestError("exists", f"shared memory region {name!r:.80} is registered already")
        if len(self._regions) >= _MOST_REGIONS:
            raise RequestError("busy", f"there are {_MOST_REGIONS} shared memory regions, and no more are taken")
        offset, byte_size = _number("offset", offset, 0), _number("byte_size", byte_size, 1)
        descriptor = _open(key)
        if offset + byte_size > os.fstat(descriptor).st_size:
            os.close(descriptor)
            raise invalid(f"shared memory {key!r:.80} has no {byte_size} bytes from {offset} on")
        self._regions[name] = _Region(name, key, offset, byte_size, descriptor)

    def unregister(self, name: str = "") -> None:
        """Without a name all of them; a region that is not there is no error."""
        for one in [name] if name else list(self._regions):
            region = self._regions.pop(one, None)
            if region is not None:
                os.close(region.descriptor)

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """Of one, or of all. Raises RequestError for one that is not there."""
        return [one.as_json() for one in ([self._region(name)] if name else self._regions.values())]

    def check(self, place: Place) -> _Region:
        """The region, if the place is within it. Raises RequestError."""
        region = self._region(place.region)
        if place.offset + place.byte_size > region.byte_size:
            raise invalid(
                f"{place.byte_size} bytes from {place.offset} on are not within shared memory region "
                f"{place.region!r:.80} of {region.byte_size}"
            )
        return region

    def read(self, place: Place) -> bytes:
        """A copy, which the client cannot change while it is looked at. Raises RequestError."""
        region = self.check(place)
        data = os.pread(region.descriptor, place.byte_size, region.offset + place.offset)
        if len(data) != place.byte_size:
            raise invalid(f"shared memory region {place.region!r:.80} has become shorter than it was registered")
        return data

    def write(self, place: Place, name: str, data: Raw) -> None:
        """`name`: of the output, for the error. Raises RequestError where it is larger than its place."""
        region = self.check(place)
        if len(data) > place.byte_size:
            raise invalid(
                f"output {name!r:.80} has {len(data)} bytes; its shared memory has room for {place.byte_size}"
            )
        os.pwrite(region.descriptor, data, region.offset + place.offset)

    def _region(self, name: str) -> _Region:
        if name not in self._regions:
            raise RequestError("not_found", f"there is no system shared memory region {name!r:.80}")
        return self._regions[name]


def place_of(parameters: Mapping[str, Any], what: str) -> Place | None:
    """Of an input or output, called `what`; None if it does not lie in shared memory. Raises RequestError."""
    if not any(name.startswith("shared_memory_") for name in parameters):
        return None
    region = parameters.get("shared_memory_region")
    if not isinstance(region, str):
        raise invalid(f"{what}: shared_memory_region must be a region's name")
    try:
        offset = _number("shared_memory_offset", parameters.get("shared_memory_offset", 0), 0)
        return Place(region, offset, _number("shared_memory_byte_size", parameters.get("shared_memory_byte_size"), 1))
    except RequestError as problem:
        raise invalid(f"{what}: {problem.message}") from None


def _number(name: str, value: Any, least: int) -> int:
    """Python's numbers have no end, so that a sum of two of them overflows nowhere."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_BYTES:
        raise invalid(f"{name}={value!r:.40} must be a whole number from {least} to 2^63 - 1")
    return value


def _open(key: Any) -> int:
    """The memory's descriptor: a plain file in /dev/shm. Raises RequestError."""
    if not isinstance(key, str) or not _KEY.fullmatch(key) or key.removeprefix("/").startswith(_RESERVED):
        raise invalid(
            f"shared memory key {key!r:.80} must be a name of letters, digits, '_', '-' and '.', not reserved"
        )
    try:
        return os.open(_FOLDER / key.removeprefix("/"), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        raise invalid(f"shared memory {key!r:.80} cannot be opened: {problem.strerror}") from None
