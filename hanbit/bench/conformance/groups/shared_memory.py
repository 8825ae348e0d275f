"""Tensors in memory that client and server share: only where both are on one machine."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import shared_memory
from typing import Any

from hanbit.bench.conformance.check import Group, NotOffered, equal, true
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import (
    DIFFERENCE,
    FIRST,
    ONES,
    SIMPLE,
    SUM,
    data_of,
    from_raw,
    ok,
    pair,
    raw,
    refused,
)

GROUP = Group("system-shm", "Triton: extension_shared_memory, system", "system_shared_memory")
CUDA = Group("cuda-shm", "Triton: extension_shared_memory, CUDA", "cuda_shared_memory")
_ROOT, _CUDA = "/v2/systemsharedmemory", "/v2/cudasharedmemory"
_REGION, _BYTES, _PAGE = "conform", 256, 4096


@dataclass(frozen=True)
class _Memory:
    """Of this machine: its name, and what is in it."""

    name: str
    bytes: memoryview


@contextlib.contextmanager
def _memory(size: int = _BYTES) -> Iterator["_Memory"]:
    made = shared_memory.SharedMemory(f"conform_{uuid.uuid4().hex[:8]}", create=True, size=size)
    try:
        assert made.buf is not None, "it is open"
        made.buf[:128] = raw("INT32", FIRST) + raw("INT32", ONES)
        yield _Memory(made.name, made.buf)
    finally:
        made.close()
        made.unlink()


def _register(server: Server, key: str, offset: int = 0, size: int = _BYTES, region: str = _REGION) -> Any:
    return server.post(f"{_ROOT}/region/{region}/register", {"key": key, "offset": offset, "byte_size": size})


@contextlib.contextmanager
def _registered(server: Server) -> Iterator["_Memory"]:
    """Raises NotOffered where the server does not see this machine's memory."""
    with _memory() as memory:
        reply = _register(server, f"/{memory.name}")
        if reply.status != 200:
            raise NotOffered(f"register answered {reply}: is the server on this machine?")
        try:
            yield memory
        finally:
            server.post(f"{_ROOT}/region/{_REGION}/unregister")


def _place(name: str, offset: int, size: int, region: str = _REGION) -> dict[str, Any]:
    parameters = {
        "shared_memory_region": region,
        "shared_memory_offset": offset,
        "shared_memory_byte_size": size,
    }
    return {"name": name, "datatype": "INT32", "shape": [1, 16], "parameters": parameters}


def _output(name: str, offset: int, size: int) -> dict[str, Any]:
    return {"name": name, "parameters": _place(name, offset, size)["parameters"]}


@GROUP.check("status", "the status of a region has its name, key, offset and size")
def _status(server: Server) -> None:
    with _registered(server) as memory:
        wanted = {"name": _REGION, "key": f"/{memory.name}", "offset": 0, "byte_size": _BYTES}
        equal(ok(server.get(f"{_ROOT}/region/{_REGION}/status")), [wanted], "the status")
        true(wanted in ok(server.get(f"{_ROOT}/status")), "it is among all")


@GROUP.check("in", "an input may be in a region, from an offset")
def _in(server: Server) -> None:
    with _registered(server):
        found = ok(server.infer(SIMPLE, [_place("INPUT0", 0, 64), _place("INPUT1", 64, 64)]))
        equal((data_of(found, "OUTPUT0"), data_of(found, "OUTPUT1")), (SUM, DIFFERENCE), "outputs")


@GROUP.check("out", "an output may be written into a region; the answer tells its shape and has no data")
def _out(server: Server) -> None:
    with _registered(server) as memory:
        outputs = [_output("OUTPUT0", 128, 64), _output("OUTPUT1", 192, 64)]
        found = ok(server.infer(SIMPLE, pair(), outputs=outputs))
        true("data" not in found["outputs"][0], "there is no data in the answer")
        equal(found["outputs"][0]["shape"], [1, 16], "shape")
        equal(from_raw("INT32", memory.bytes[128:].tobytes()), SUM + DIFFERENCE, "what is in the region")


@GROUP.check("new-values", "a region is read anew with each request")
def _new(server: Server) -> None:
    with _registered(server) as memory:
        memory.bytes[:64] = raw("INT32", ONES)
        found = ok(server.infer(SIMPLE, [_place("INPUT0", 0, 64), _place("INPUT1", 64, 64)]))
        equal(data_of(found, "OUTPUT0"), [2] * 16, "OUTPUT0")


def _from(server: Server, offset: int) -> None:
    """A region that begins so far within the memory."""
    with _memory(2 * _PAGE) as memory:
        memory.bytes[offset : offset + 64] = raw("INT32", ONES)
        reply = _register(server, f"/{memory.name}", offset, 64)
        equal(reply.status, 200, "status of register")
        try:
            found = ok(server.infer(SIMPLE, [pair()[0], _place("INPUT1", 0, 64)]))
            equal(data_of(found, "OUTPUT0"), SUM, "OUTPUT0")
        finally:
            server.post(f"{_ROOT}/region/{_REGION}/unregister")


GROUP.add("offset-page", "a region may begin within the memory, at a page", lambda server: _from(server, _PAGE))
GROUP.add("offset", "a region may begin anywhere within the memory", lambda server: _from(server, 64))


@GROUP.check("twice", "a region that there is cannot be registered again")
def _twice(server: Server) -> str:
    with _registered(server) as memory:
        return refused(_register(server, f"/{memory.name}"))


@GROUP.check("unregister", "a region that was given back cannot be used")
def _gone(server: Server) -> str:
    with _registered(server):
        equal(server.post(f"{_ROOT}/region/{_REGION}/unregister").status, 200, "status")
        return refused(server.infer(SIMPLE, [_place("INPUT0", 0, 64), pair()[1]]))


@GROUP.check("unregister-all", "all regions can be given back at once")
def _all(server: Server) -> None:
    with _registered(server):
        equal(server.post(f"{_ROOT}/unregister").status, 200, "status")
        equal(ok(server.get(f"{_ROOT}/status")), [], "the status")


@GROUP.check("unregister-none", "giving back a region that there is not is no error")
def _none(server: Server) -> None:
    equal(server.post(f"{_ROOT}/region/nobody/unregister").status, 200, "status")


@GROUP.check("status-none", "the status of a region that there is not is refused")
def _status_none(server: Server) -> str:
    return refused(server.get(f"{_ROOT}/region/nobody/status"), 404, 400)


def _registering(**changed: Any) -> Callable[[Server], str]:
    def look(server: Server) -> str:
        with _memory() as memory:
            body = {"key": f"/{memory.name}", "offset": 0, "byte_size": _BYTES, **changed}
            reply = server.post(f"{_ROOT}/region/wrong/register", {k: v for k, v in body.items() if v is not None})
            server.post(f"{_ROOT}/region/wrong/unregister")
            return refused(reply)

    return look


for _name, _what, _changed in (
    ("key-unknown", "memory that there is not", {"key": "/conform_nothing"}),
    ("key-missing", "no key", {"key": None}),
    ("key-path", "a key that is a path", {"key": "../../etc/passwd"}),
    ("size-large", "more bytes than there are", {"byte_size": 99_999}),
    ("size-none", "no bytes", {"byte_size": 0}),
    ("offset-large", "an offset whose end is beyond the memory", {"offset": 200, "byte_size": 100}),
    ("offset-overflow", "an offset that overflows", {"offset": 2**64 - 10, "byte_size": 100}),
    ("offset-negative", "a negative offset", {"offset": -1}),
):
    GROUP.add(f"register-{_name}", f"registering {_what} is refused", _registering(**_changed))


def _using(input: dict[str, Any], *outputs: dict[str, Any]) -> Callable[[Server], str]:
    def look(server: Server) -> str:
        with _registered(server):
            return refused(server.infer(SIMPLE, [input, pair()[1]], outputs=list(outputs)))

    return look


for _name, _what, _input, _outputs in (
    ("beyond", "an input beyond the region's end", _place("INPUT0", 250, 64), ()),
    ("overflow", "an input whose offset overflows", _place("INPUT0", 2**64 - 8, 64), ()),
    ("size-other", "an input of another size than its shape", _place("INPUT0", 0, 32), ()),
    ("unknown", "an input in a region that there is not", _place("INPUT0", 0, 64, "nobody"), ()),
    ("and-data", "an input in a region, with data too", {**_place("INPUT0", 0, 64), "data": FIRST}, ()),
    ("out-small", "an output larger than its place", pair()[0], (_output("OUTPUT0", 128, 32),)),
    ("out-beyond", "an output beyond the region's end", pair()[0], (_output("OUTPUT0", 240, 64),)),
):
    GROUP.add(f"use-{_name}", f"{_what} is refused", _using(_input, *_outputs))


@CUDA.check("status", "the status of CUDA regions is a list")
def _cuda_status(server: Server) -> None:
    equal(ok(server.get(f"{_CUDA}/status")), [], "the status")


@CUDA.check("register", "registering a handle that is none is refused")
def _cuda_register(server: Server) -> str:
    body = {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 10}
    return refused(server.post(f"{_CUDA}/region/wrong/register", body))


@CUDA.check("unregister", "giving back CUDA regions, all or one, is no error")
def _cuda_unregister(server: Server) -> None:
    statuses = [server.post(f"{_CUDA}/{path}unregister").status for path in ("", "region/nobody/")]
    equal(statuses, [200, 200], "statuses")
