"""Memory that two processes map: tensors of megabytes go through it, with one copy, instead of through the socket.

Each direction has a region of its own, in which only one side writes. It says in frames where a tensor lies and how
large the region is by then; the other side maps what it has not yet.
"""

import mmap
import os
import struct
import tempfile

_PAGE = 4096
_HEAD = 64  # bytes at the front, where the reader of a region says how far it is
_MOST_BYTES = 2**31
_SEEN = struct.Struct("<Q")


def new_region() -> int:
    """A file descriptor of memory without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("hanbit-tensors")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Region:
    """A mapping of what there is of it. The descriptor stays its owner's."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = 0
        self._map: mmap.mmap | None = None
        self._view = memoryview(b"")

    def grow(self, size: int) -> None:
        """By its writer. Raises OSError where there is no memory."""
        size = -(-size // _PAGE) * _PAGE
        os.posix_fallocate(self.descriptor, 0, size)  # now, not by a signal when it is written
        self.reach(size)

    def reach(self, size: int) -> None:
        """Map at least so much; views of the former mapping stay what they are."""
        if size > self.size:
            if size > os.fstat(self.descriptor).st_size:
                raise ValueError(f"shared memory of {size} bytes is not there")
            self._map = mmap.mmap(self.descriptor, size)
            self._view, self.size = memoryview(self._map), size

    def view(self, start: int, size: int) -> memoryview:
        if start < 0 or size < 0 or start + size > self.size:
            raise ValueError(f"bytes {start} to {start + size} are not in shared memory of {self.size}")
        return self._view[start : start + size]

    @property
    def num_seen(self) -> int:
        """Frames whose tensors their reader has copied."""
        return _SEEN.unpack_from(self._view)[0] if self.size else 0

    def saw(self, count: int) -> None:
        if self.size:
            _SEEN.pack_into(self._view, 0, count)


class Arena:
    """Room in a region that its writer gives out and takes back: the first gap that is large enough."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._taken: list[tuple[int, int]] = []  # (start, end), by place

    def put(self, data: memoryview) -> int | None:
        """Where the bytes lie now; None if there is no room for them."""
        start = self._gap(data.nbytes)
        if start is None:
            return None
        self._region.view(start, data.nbytes)[:] = data
        return start

    def free(self, start: int) -> None:
        self._taken = [one for one in self._taken if one[0] != start]

    @property
    def region_size(self) -> int:
        return self._region.size

    def _gap(self, size: int) -> int | None:
        place = _HEAD
        for index, (start, end) in enumerate(self._taken):
            if start - place >= size:
                self._taken.insert(index, (place, place + size))
                return place
            place = -(-end // _HEAD) * _HEAD
        if place + size > self._region.size:
            if place + size > _MOST_BYTES:
                return None
            try:
                self._region.grow(min(max(place + size, 2 * self._region.size), _MOST_BYTES))
            except OSError:
                return None
        self._taken.append((place, place + size))
        return place
