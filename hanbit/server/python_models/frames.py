"""What a server and a worker process say to each other over a socket: a few words of JSON, and tensors' raw bytes.

A frame is the length of its JSON and of its bytes, then both. Its JSON is a list, the kind first:

    server to worker                              worker to server
    start    what to load                         loaded     what auto_complete_config made of the configuration
    init     with which arguments                 ready      initialize has returned
    run      requests                             done       responses, and whether the batch is over
    cancel   requests nobody waits for            ask        another model; stop: no more of its answers
    answer   of a model that was asked            control    load, unload, is_ready
    end      finalize, and go                     log        a line
                                                  failed     why it cannot be loaded

A tensor is [name, datatype, shape, number of bytes], with its place in shared memory behind if it lies there; the bytes
of the others follow each other.
"""

import json
import socket
import struct
from collections.abc import Callable, Sequence
from json import encoder
from typing import Any

from hanbit.server.python_models.shared import Arena, Region

LEAST_SHARED = 64 * 1024  # bytes of a tensor that goes through shared memory
_SIZES = struct.Struct("<IQ")
_MOST_JSON = 64 * 2**20
_MOST_DATA = 2**40
_CHUNK = 64 * 1024  # of a read; a new buffer of 256 KiB for each costs 25 microseconds
_MOST_AT_ONCE = 4 * 2**20
_plain = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False)
# What `encode` makes anew for every value, made once; `decode` looks for white space around, too: as much time again.
_make: Any = getattr(encoder, "c_make_encoder", None)
_parts = _make and _make(None, _plain.default, encoder.encode_basestring_ascii, None, ":", ",", False, False, False)
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]

Raw = bytes | memoryview
Described = tuple[str, str, Sequence[int], Raw]  # name, datatype, shape, bytes


def _encode(value: Sequence[Any]) -> bytes:
    text = "".join(_parts(value, 0)) if _parts is not None else _plain.encode(value)
    return text.encode("ascii")


class Outgoing:
    """A frame in the making. `arena`: where large tensors go; `placed`: where they lie, for who frees them."""

    def __init__(self, arena: Arena | None) -> None:
        self._arena = arena
        self._raw: list[Raw] = []
        self._size = 0
        self.placed: list[int] = []

    def tensor(self, name: str, datatype: str, shape: Sequence[int], raw: Raw) -> list[Any]:
        size = len(raw)
        if size >= LEAST_SHARED and self._arena is not None:
            start = self._arena.put(memoryview(raw))
            if start is not None:
                self.placed.append(start)
                return [name, datatype, shape, size, start]
        self._raw.append(raw)
        self._size += size
        return [name, datatype, shape, size]

    @property
    def region_size(self) -> int:
        return self._arena.region_size if self._arena is not None else 0

    def bytes(self, value: Sequence[Any]) -> "list[Raw]":
        """The whole frame, in parts."""
        text = _encode(value)
        return [_SIZES.pack(len(text), self._size) + text, *self._raw]


class Frame:
    """`value`: its JSON; `tensors` are read in their order."""

    __slots__ = ("_data", "_place", "value")

    def __init__(self, value: list[Any], data: memoryview) -> None:
        self.value = value
        self._data = data
        self._place = 0

    def tensor(self, described: list[Any], region: Region) -> Described:
        """Raises ValueError for what is not there."""
        name, datatype, shape, size = described[:4]
        if len(described) > 4:
            return name, datatype, shape, region.view(described[4], size)
        raw = self._data[self._place : self._place + size]
        if len(raw) != size:
            raise ValueError(f"tensor {name!r} ends too early")
        self._place += size
        return name, datatype, shape, raw


class Incoming:
    """Cuts what comes through a socket into frames, each with bytes of its own, which may be written."""

    def __init__(self) -> None:
        self._buffer = bytearray(_CHUNK)
        self._pending = bytearray()
        self._missing = 0  # until the frame that has begun is whole

    def receive(self, sock: socket.socket) -> list[Frame] | None:
        """What is whole after one read; None where nobody is at the other end. Raises BlockingIOError, ValueError."""
        try:
            size = self._read(sock)
        except ConnectionError:
            return None
        if not size:
            return None
        self._missing -= size
        if self._missing > 0:
            return []
        data, self._pending = self._pending, bytearray()
        return self._cut(data)

    def _read(self, sock: socket.socket) -> int:
        """Behind what is pending. How much has come."""
        if self._missing <= _CHUNK:
            size = sock.recv_into(self._buffer)
            self._pending += memoryview(self._buffer)[:size]
            return size
        chunk = sock.recv(min(self._missing, _MOST_AT_ONCE))
        self._pending += chunk
        return len(chunk)

    def _cut(self, data: bytearray) -> list[Frame]:
        frames, place, view = [], 0, memoryview(data)
        while len(data) - place >= _SIZES.size:
            num_json, num_data = _SIZES.unpack_from(data, place)
            if num_json > _MOST_JSON or num_data > _MOST_DATA:
                raise ValueError("a frame is larger than frames are")
            start = place + _SIZES.size
            end = start + num_json + num_data
            if end > len(data):
                self._missing = end - len(data)
                break  # the rest comes later
            value = _scan(str(view[start : start + num_json], "ascii"), 0)[0]
            frames.append(Frame(value, view[start + num_json : end]))
            place = end
        else:
            self._missing = 0
        if place < len(data):
            self._pending = bytearray(view[place:])
        return frames


def send_whole(sock: socket.socket, parts: "list[Raw]") -> None:
    """Over a socket that blocks."""
    if len(parts) == 1:
        sock.sendall(parts[0])
    elif sum(len(part) for part in parts) <= LEAST_SHARED:
        sock.sendall(b"".join(parts))
    else:
        for part in parts:
            sock.sendall(part)
