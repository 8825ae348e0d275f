"""Bodies that are packed, both ways."""

import gzip
import json
import zlib
from collections.abc import Callable

from hanbit.bench.conformance.check import Failed, Group, equal
from hanbit.bench.conformance.server import Reply, Server
from hanbit.bench.conformance.wire import FIRST, HEADER_LENGTH, SIMPLE, SUM, binary, data_of, ok, pair, raw, refused

GROUP = Group("compression", "Triton: HTTP/REST Protocol, compression (Content-Encoding, Accept-Encoding)")
_PATH = f"/v2/models/{SIMPLE}/infer"
_BODY = json.dumps({"inputs": pair()}).encode()
_PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
_UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


def _in(encoding: str) -> Callable[[Server], None]:
    def look(server: Server) -> None:
        found = ok(server.post(_PATH, _PACK[encoding](_BODY), {"Content-Encoding": encoding}))
        equal(data_of(found, "OUTPUT0"), SUM, "OUTPUT0")

    return look


def _unpacked(reply: Reply, encoding: str) -> dict[str, object]:
    equal((reply.status, reply.headers.get("Content-Encoding")), (200, encoding), "status and Content-Encoding")
    return json.loads(_UNPACK[encoding](reply.content))


def _out(encoding: str, accepted: str) -> Callable[[Server], None]:
    def look(server: Server) -> None:
        found = _unpacked(server.post(_PATH, _BODY, {"Accept-Encoding": accepted}), encoding)
        equal(data_of(found, "OUTPUT0"), SUM, "OUTPUT0")

    return look


for _encoding in ("gzip", "deflate"):
    GROUP.add(f"in-{_encoding}", f"a body packed with {_encoding} is read", _in(_encoding))
    GROUP.add(
        f"out-{_encoding}", f"an answer is packed with {_encoding} where that is accepted", _out(_encoding, _encoding)
    )
GROUP.add(
    "preferred",
    "of several that are accepted the one with the highest q is taken",
    _out("gzip", "deflate;q=0.5, gzip;q=1.0"),
)


@GROUP.check("binary", "packed, a body keeps its JSON's length as it was before")
def _binary(server: Server) -> None:
    text = json.dumps({"inputs": [binary("INPUT0", "INT32", [1, 16], 64), pair()[1]]}).encode()
    headers = {"Content-Encoding": "gzip", HEADER_LENGTH: str(len(text))}
    found = ok(server.post(_PATH, gzip.compress(text + raw("INT32", FIRST)), headers))
    equal(data_of(found, "OUTPUT0"), SUM, "OUTPUT0")


@GROUP.check("binary-out", "a packed answer of bytes tells its JSON's length as it is unpacked")
def _binary_out(server: Server) -> None:
    body = {"inputs": pair(), "parameters": {"binary_data_output": True}}
    reply = server.post(_PATH, body, {"Accept-Encoding": "gzip"})
    content = gzip.decompress(reply.content)
    length = int(reply.headers[HEADER_LENGTH])
    equal((json.loads(content[:length])["model_name"], len(content) - length), (SIMPLE, 128), "model and bytes")


def _plain(accepted: str) -> Callable[[Server], None]:
    def look(server: Server) -> None:
        reply = server.post(_PATH, _BODY, {"Accept-Encoding": accepted})
        equal(reply.headers.get("Content-Encoding"), None, "Content-Encoding")
        equal(data_of(ok(reply), "OUTPUT0"), SUM, "OUTPUT0")

    return look


GROUP.add("not-accepted", "an answer is not packed with what is not accepted (q=0)", _plain("gzip;q=0"))
GROUP.add("accepts-other", "an answer is not packed where only another way is accepted", _plain("br"))


@GROUP.check("unknown", "a body packed in another way is refused")
def _unknown(server: Server) -> str:
    return refused(server.post(_PATH, _BODY, {"Content-Encoding": "br"}), 400, 415, 501)


@GROUP.check("broken", "a body that is not what its Content-Encoding says is refused")
def _broken(server: Server) -> str:
    return refused(server.post(_PATH, _BODY, {"Content-Encoding": "gzip"}))


@GROUP.check("cut", "a packed body that ends too early is refused")
def _cut(server: Server) -> str:
    return refused(server.post(_PATH, gzip.compress(_BODY)[:-5], {"Content-Encoding": "gzip"}))


LAST = Group("large", "bodies larger than 64 MiB are not held in memory (the default of newer Tritons)")


@LAST.check("bomb", "a body that unpacks to 256 MiB is refused")
def _bomb(server: Server) -> str:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(b" " * 2**20) for _ in range(256)) + packer.flush()
    try:
        return refused(server.post(_PATH, packed, {"Content-Encoding": "gzip"}))
    except OSError as problem:
        raise Failed(f"the connection ended: {problem}") from None
