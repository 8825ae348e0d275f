"""Regions of shared memory: what may be registered, what is within them, and what a client cannot break."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanbit.server.errors import RequestError
from hanbit.server.extensions.shared_memory import Place, SharedMemory, place_of

SIZE = 256


@pytest.fixture
def key() -> Iterator[str]:
    """Of memory that has the bytes 0, 1, 2, ..."""
    name = f"test_hanbit_{uuid.uuid4().hex[:8]}"
    path = Path("/dev/shm") / name
    path.write_bytes(bytes(range(SIZE)))
    yield f"/{name}"
    path.unlink(missing_ok=True)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    found = SharedMemory(is_allowed=True)
    yield found
    found.unregister()


def test_a_region_is_read_and_written_from_its_offset(memory: SharedMemory, key: str) -> None:
    memory.register("a", key, 100, 50)
    assert memory.status("a") == [{"name": "a", "key": key, "offset": 100, "byte_size": 50}]
    assert memory.read(Place("a", 10, 3)) == bytes([110, 111, 112])
    memory.write(Place("a", 48, 2), "OUT", b"xy")
    assert Path("/dev/shm", key[1:]).read_bytes()[147:151] == bytes([147]) + b"xy" + bytes([150])


@pytest.mark.parametrize(
    ("offset", "size"), [(0, SIZE + 1), (200, 57), (2**63 - 1, 1), (2**64, 1), (-1, 1), (0, 0), (0, "1"), (True, 1)]
)
def test_a_region_beyond_the_memory_is_refused(memory: SharedMemory, key: str, offset: int, size: int) -> None:
    with pytest.raises(RequestError) as caught:
        memory.register("a", key, offset, size)
    assert caught.value.kind == "invalid"
    assert memory.status() == []


@pytest.mark.parametrize("place", [Place("a", 0, SIZE + 1), Place("a", 250, 7), Place("a", 2**63 - 1, 2**63 - 1)])
def test_a_place_beyond_its_region_is_refused(memory: SharedMemory, key: str, place: Place) -> None:
    memory.register("a", key, 0, SIZE)
    for use in (memory.check, memory.read):
        with pytest.raises(RequestError, match="not within shared memory region"):
            use(place)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/../etc/passwd", "a/b", "", "/", ".", "..", "a\0b", 5, None, "sem.a", "hanbit-tensors",
     "triton_python_backend_shm_region_1"],
)  # fmt: skip
def test_a_key_that_is_a_path_or_reserved_is_refused(memory: SharedMemory, name: object) -> None:
    with pytest.raises(RequestError, match="must be a name of letters"):
        memory.register("a", name, 0, 1)


def test_a_link_is_not_followed(memory: SharedMemory, key: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    link = Path("/dev/shm") / f"{key[1:]}_link"
    link.symlink_to(secret)
    try:
        with pytest.raises(RequestError, match="cannot be opened"):
            memory.register("a", f"/{link.name}", 0, 6)
    finally:
        link.unlink()


def test_memory_that_its_client_cuts_short_is_an_error(memory: SharedMemory, key: str) -> None:
    memory.register("a", key, 0, SIZE)
    os.truncate(Path("/dev/shm") / key[1:], 10)
    with pytest.raises(RequestError, match="become shorter"):
        memory.read(Place("a", 0, SIZE))


def test_what_was_read_stays_when_the_region_is_given_back(memory: SharedMemory, key: str) -> None:
    memory.register("a", key, 0, SIZE)
    data = memory.read(Place("a", 0, SIZE))
    memory.unregister("a")
    memory.unregister("a")
    assert data == bytes(range(SIZE))
    with pytest.raises(RequestError, match="no system shared memory region 'a'") as caught:
        memory.read(Place("a", 0, 1))
    assert caught.value.kind == "not_found"


def test_no_descriptor_is_left(memory: SharedMemory, key: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("a", "b"):
        memory.register(name, key, 0, SIZE)
    with pytest.raises(RequestError, match="registered already"):
        memory.register("a", key, 0, SIZE)
    with pytest.raises(RequestError):
        memory.register("c", key, 0, SIZE + 1)
    memory.unregister()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_output_larger_than_its_place_is_refused_whole(memory: SharedMemory, key: str) -> None:
    memory.register("a", key, 0, SIZE)
    with pytest.raises(RequestError, match="'OUT' has 5 bytes"):
        memory.write(Place("a", 0, 4), "OUT", b"xxxxx")
    assert memory.read(Place("a", 0, 4)) == bytes(range(4))


def test_nothing_is_registered_where_it_is_not_allowed(key: str) -> None:
    with pytest.raises(RequestError, match="--allow-client-shm") as caught:
        SharedMemory().register("a", key, 0, SIZE)
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize(
    "parameters",
    [{"shared_memory_region": "a"}, {"shared_memory_offset": 1}, {"shared_memory_region": 5},
     {"shared_memory_region": "a", "shared_memory_byte_size": -1},
     {"shared_memory_region": "a", "shared_memory_byte_size": 1, "shared_memory_offset": 0.5}],
)  # fmt: skip
def test_a_place_that_is_none_is_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(RequestError) as caught:
        place_of(parameters, "input 'IN'")
    assert caught.value.kind == "invalid"
    assert "input 'IN'" in caught.value.message
