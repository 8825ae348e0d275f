"""Answers packed the way that a client accepts: gzip or deflate, by Accept-Encoding."""

import asyncio
import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence

from starlette.responses import Response

from hanbit.server.frontends.listening import PartsResponse
from hanbit.server.tensors import Raw

_PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, compresslevel=1, mtime=0),
    "deflate": lambda body: zlib.compress(body, level=1),
}
_AT_ONCE_BYTES = 64 * 1024  # a longer body is packed in a thread: other requests need not wait for it
_LONGEST_HEADER = 1024


async def packed(parts: Sequence[Raw], headers: Mapping[str, str], accepted: str) -> Response:
    """The response of a body's parts, packed if the client wishes so."""
    encoding = _chosen(accepted) if accepted else None
    if encoding is None:
        return PartsResponse(parts, headers) if len(parts) > 1 else Response(parts[0], headers=headers)
    body, pack = b"".join(parts), _PACK[encoding]
    content = pack(body) if len(body) <= _AT_ONCE_BYTES else await asyncio.to_thread(pack, body)
    return Response(content, headers={**headers, "Content-Encoding": encoding})


def _chosen(accepted: str) -> str | None:
    """The one with the highest q, the first of equal ones; what has q=0 or is not known is not chosen."""
    if len(accepted) > _LONGEST_HEADER:
        return None
    best, best_weight = None, 0.0
    for part in accepted.split(","):
        name, _, parameter = part.strip().partition(";")
        weight = _weight(parameter)
        if name.strip().lower() in _PACK and weight > best_weight:
            best, best_weight = name.strip().lower(), weight
    return best


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if not parameter.strip():
        return 1.0
    try:
        return float(value) if name.strip() == "q" else 0.0
    except ValueError:
        return 0.0
