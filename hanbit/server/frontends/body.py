"""A request's body, whole and decompressed, with its size bounded while it comes in."""

import zlib
from collections.abc import Callable

from starlette.requests import Request

from hanbit.server.errors import RequestError, invalid
from hanbit.server.options import MOST_INPUT_BYTES

_MOST_CHUNKS = 65_536
_WINDOWS = {"gzip": 31, "deflate": 15}


async def read_body(request: Request) -> bytes:
    """Raises RequestError as soon as too much has come, packed or unpacked."""
    most: int = getattr(request.app.state, "max_input_bytes", MOST_INPUT_BYTES)
    unpack = _unpacker(request.headers.get("content-encoding", "").strip().lower())
    parts: list[bytes] = []
    received = chunks = size = 0
    async for chunk in request.stream():
        received, chunks = received + len(chunk), chunks + 1
        if received > most or chunks > _MOST_CHUNKS:
            raise _too_large(most)
        parts.append(unpack(chunk, most - size))
        size += len(parts[-1])
        if size > most:
            raise _too_large(most)
    parts.append(unpack(b"", most - size))
    if size + len(parts[-1]) > most:
        raise _too_large(most)
    return b"".join(parts)


Unpack = Callable[[bytes, int], bytes]


def _unpacker(encoding: str) -> Unpack:
    """A function of (chunk, room left), which gives one byte more than there is room for where there are more; an empty
    chunk is the end."""
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
        if not chunk and not stream.eof and len(data) <= room:
            raise invalid(f"the {encoding} body ends too early")
        return data

    return unpack


def _too_large(most: int) -> RequestError:
    return RequestError(
        "too_large", f"the body is larger than may be: {most} bytes, unpacked, in {_MOST_CHUNKS} chunks"
    )
