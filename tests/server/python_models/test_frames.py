"""The socket's frames and the shared memory, against plain copies."""

import os
import random
import socket
from typing import Any

import numpy as np
import pytest

from hanbit.server.python_models.frames import LEAST_SHARED, Frame, Incoming, Outgoing
from hanbit.server.python_models.shared import Arena, Region, new_region


class Pipe:
    """A socket that gives what is put into it, in pieces of chosen sizes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self._sizes = data, sizes

    def recv(self, size: int) -> bytes:
        size = min(size, self._sizes.pop() if self._sizes else size)
        found, self.data = self.data[:size], self.data[size:]
        return found

    def recv_into(self, buffer: bytearray) -> int:
        found = self.recv(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def all_frames(pipe: Any) -> list[Frame]:
    incoming, found = Incoming(), []
    while (frames := incoming.receive(pipe)) is not None:
        found += frames
    return found


def written(values: list[tuple[list[Any], list[np.ndarray]]]) -> bytes:
    data = b""
    for value, arrays in values:
        outgoing = Outgoing(None)
        tensors = [outgoing.tensor(f"t{n}", "INT32", one.shape, one.tobytes()) for n, one in enumerate(arrays)]
        data += b"".join(bytes(part) for part in outgoing.bytes([*value, tensors]))
    return data


def test_frames_come_whole_however_they_are_cut() -> None:
    chance = random.Random(0)
    region = Region(-1)
    for _ in range(60):
        values = [
            (
                ["kind", chance.randint(0, 9), "텍스트 \ud800", None, 0.5, True, {"a": [1]}],
                [
                    np.arange(chance.choice([0, 1, 7, 1000, 50_000]), dtype=np.int32)
                    for _ in range(chance.randint(0, 3))
                ],
            )
            for _ in range(chance.randint(1, 4))
        ]
        sizes = [chance.choice([1, 3, 11, 12, 13, 100, 5000, 70_000]) for _ in range(200)]
        found = all_frames(Pipe(written(values), sizes))
        assert [frame.value[:-1] for frame in found] == [value for value, _ in values]
        for frame, (_, arrays) in zip(found, values, strict=True):
            for described, array in zip(frame.value[-1], arrays, strict=True):
                name, datatype, shape, raw = frame.tensor(described, region)
                assert (datatype, tuple(shape)) == ("INT32", array.shape)
                assert bytes(raw) == array.tobytes()
                assert not memoryview(raw).readonly, name


def test_a_frame_larger_than_frames_are_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than frames are"):
        all_frames(Pipe(b"\xff" * 12, []))


def test_a_tensor_that_its_frame_does_not_hold_is_refused() -> None:
    (frame,) = all_frames(Pipe(written([(["x"], [np.arange(4, dtype=np.int32)])]), []))
    with pytest.raises(ValueError, match="ends too early"):
        frame.tensor(["t0", "INT32", [5], 20], Region(-1))
    with pytest.raises(ValueError, match="not in shared memory"):
        frame.tensor(["t0", "INT32", [5], 20, 64], Region(-1))


def test_two_sides_see_the_same_memory_as_it_grows() -> None:
    descriptor = new_region()
    try:
        mine, theirs = Region(descriptor), Region(descriptor)
        arena = Arena(mine)
        first = arena.put(memoryview(b"a" * 100_000))
        assert first is not None
        theirs.reach(arena.region_size)
        before = theirs.view(first, 100_000)
        second = arena.put(memoryview(b"b" * 10_000_000))
        assert second is not None
        theirs.reach(arena.region_size)
        assert bytes(theirs.view(second, 10_000_000)) == b"b" * 10_000_000
        assert bytes(before) == b"a" * 100_000
        theirs.saw(7)
        assert mine.num_seen == 7
        with pytest.raises(ValueError, match="is not there"):
            Region(descriptor).reach(arena.region_size + 1)
    finally:
        os.close(descriptor)


def test_at_random_no_two_tensors_lie_on_each_other_and_room_is_used_again() -> None:
    chance = random.Random(1)
    descriptor = new_region()
    try:
        arena = Arena(region := Region(descriptor))
        there: dict[int, bytes] = {}
        for _ in range(400):
            if there and chance.random() < 0.5:
                place = chance.choice(list(there))
                arena.free(place)
                del there[place]
            else:
                data = bytes([chance.randrange(256)]) * chance.randrange(1, 20_000)
                place = arena.put(memoryview(data))
                assert place is not None
                there[place] = data
            for place, data in there.items():
                assert bytes(region.view(place, len(data))) == data
            while len(there) > 10:
                place = next(iter(there))
                arena.free(place)
                del there[place]
        assert region.size < 20 * 20_000
    finally:
        os.close(descriptor)


def test_large_tensors_go_beside_the_socket_and_small_ones_through_it() -> None:
    descriptor = new_region()
    try:
        outgoing = Outgoing(Arena(Region(descriptor)))
        small = outgoing.tensor("s", "UINT8", [3], b"abc")
        large = outgoing.tensor("l", "UINT8", [LEAST_SHARED], b"x" * LEAST_SHARED)
        mine, its = socket.socketpair()
        with mine, its:
            for part in outgoing.bytes(["run", [small, large]]):
                mine.sendall(part)
            mine.close()
            (frame,) = all_frames(its)
        region = Region(descriptor)
        region.reach(outgoing.region_size)
        assert [bytes(frame.tensor(one, region)[3]) for one in frame.value[1]] == [b"abc", b"x" * LEAST_SHARED]
        assert len(large) == 5
        assert len(outgoing.placed) == 1
    finally:
        os.close(descriptor)
