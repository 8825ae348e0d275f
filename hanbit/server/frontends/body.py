"""A request's body, whole and decompressed, with its size bounded while it comes in."""

import zlib
from collections.abc import Callable

from starlette.requests import Request

from hanbit.server.errors import RequestError, invalid

MOST_BYTES = 64 * 2**20
_MOST_CHUNKS = 65_536
_WINDOWS = {"gzip": 31, "deflate": 15}


async def read_body(request: Request) -> bytes:
    """Raises RequestError as soon as too much has come, packed or unpacked."""
    unpack = _unpacker(request.headers.get("content-encoding", "").strip().lower())
    parts: list[bytes] = []
    received = chunks = size = 0
    async for chunk in request.stream():
        received, chunks = received + len(chunk), chunks + 1
        if received > MOST_BYTES or chunks > _MOST_CHUNKS:
            raise _too_large()
        parts.append(unpack(chunk, MOST_BYTES - size))
        size += len(parts[-1])
    parts.append(unpack(b"", MOST_BYTES - size))
    return b"".join(parts)


Unpack = Callable[[bytes, int], bytes]


def _unpacker(encoding: str) -> Unpack:
    """A function of (chunk, room left); an empty chunk is the end."""
    if encoding in ("", "identity"):
        return lambda chunk, _: chunk
    if encoding not in _WINDOWS:
        raise invalid(f"Content-Encoding {encoding!r:.40} is not read; use gzip, deflate or none")
    return _inflate(zlib.decompressobj(_WINDOWS[encoding]), encoding)


def _inflate(stream: "zlib._Decompress", encoding: str) -> Unpack:
    def unpack(chunk: bytes, room: int) -> bytes:
        try:
            data = stream.decompress(chunk, room + 1)
        except zlib.error:
            raise invalid(f"the body is not {encoding}, as its Content-Encoding says") from None
        if len(data) > room:
            raise _too_large()
        if not chunk and not stream.eof:
            raise invalid(f"the {encoding} body ends too early")
        return data

    return unpack


def _too_large() -> RequestError:
    return RequestError("too_large", f"a body may have {MOST_BYTES} bytes, unpacked, in {_MOST_CHUNKS} chunks")
