"""A worker's end of the socket. No thread of its own: whoever waits for something reads, and hands out what others wait
for. So the usual model, of one thread, is never woken twice for a request.
"""

import itertools
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from hanbit.server.python_models.api_errors import TritonError, TritonModelException
from hanbit.server.python_models.api_requests import InferenceRequest, InferenceResponse, asked_of
from hanbit.server.python_models.api_tensor import Tensor, raw_of_tensor
from hanbit.server.python_models.datatypes import BYTES, array_of
from hanbit.server.python_models.frames import LEAST_SHARED, Frame, Incoming, Outgoing, send_whole
from hanbit.server.python_models.shared import Arena, Region

_WORK = 0  # the box of what the server sends unasked


class Connection:
    """`theirs`, `ours`: regions that the server and this process write. Ends the process when the server has gone."""

    def __init__(self, sock: socket.socket, theirs: Region, ours: Region) -> None:
        self._socket, self._theirs, self._ours = sock, theirs, ours
        self._incoming = Incoming()
        self._arena = Arena(ours)
        self._in_use: deque[tuple[int, list[int]]] = deque()  # frames with places in the arena, the oldest first
        self._num_frames = itertools.count(1)
        self._sending = threading.Lock()
        self._state = threading.Condition()
        self._is_read = False  # some thread reads
        self._boxes: dict[int, deque[Frame]] = {_WORK: deque()}
        self._calls = itertools.count(1)
        self._forgotten: deque[tuple[int, InferenceResponse]] = deque()
        self.cancelled: set[int] = set()  # requests that nobody waits for

    def next_work(self) -> Frame:
        return self._wait(_WORK)

    def send(self, outgoing: Outgoing, value: Sequence[Any]) -> None:
        """`value` was made with the tensors of `outgoing`; its last element becomes the region's size."""
        send_whole(self._socket, outgoing.bytes([*value, outgoing.region_size]))

    def say(self, *value: Any) -> None:
        with self._sending:
            self.send(Outgoing(None), value)

    def responses(self, rows: Sequence[tuple[int, InferenceResponse | None, bool]], is_over: bool) -> None:
        """Of requests by their numbers, with the mark of each one's last; `is_over`: the next batch may come."""
        with self._sending:
            outgoing = self._outgoing()
            try:
                told = [_told(outgoing, *row) for row in rows]
            finally:
                self._remember(outgoing)
            self.send(outgoing, ["done", told, is_over])
        self._tell_forgotten()

    def forget(self, number: int, response: InferenceResponse) -> None:
        """The last of a request that its model let go. Called by the garbage collector, in the midst of anything."""
        self._forgotten.append((number, response))
        self._tell_forgotten()

    def _tell_forgotten(self) -> None:
        while self._forgotten and self._sending.acquire(blocking=False):
            try:
                number, response = self._forgotten.popleft()
                outgoing = Outgoing(None)
                self.send(outgoing, ["done", [_told(outgoing, number, response, True)], False])
            finally:
                self._sending.release()

    def poll(self) -> None:
        """Take note of what has come, without waiting."""
        with self._state:
            if self._is_read:
                return
            self._is_read = True
        try:
            self._socket.setblocking(False)
            frames = self._incoming.receive(self._socket)
        except BlockingIOError:
            frames = []
        finally:
            self._socket.setblocking(True)
        self._hand_out(frames)

    def infer(self, request: InferenceRequest) -> Iterator[InferenceResponse]:
        """Ask another model, at once; the responses as they come."""
        call = self._call()
        with self._sending:
            outgoing = self._outgoing()
            inputs = [_described(outgoing, one) for one in request.inputs()]
            self._remember(outgoing)
            self.send(outgoing, ["ask", call, asked_of(request), inputs])
        return self._answers(call)

    def control(self, verb: str, **arguments: Any) -> Any:
        call = self._call()
        self.say("control", call, verb, arguments)
        found = self._wait(call).value
        del self._boxes[call]
        if found[4] is not None:
            raise TritonModelException(found[4][1])
        return found[3]

    def log(self, level: str, message: str) -> None:
        self.say("log", level, message)

    def request_tensors(self, frame: Frame, described: list[list[Any]], region_size: int) -> list[Tensor]:
        self._theirs.reach(region_size)
        return [_tensor(frame, one, self._theirs) for one in described]

    def _answers(self, call: int) -> Iterator[InferenceResponse]:
        is_last = False
        try:
            while not is_last:
                frame = self._wait(call)
                _, _, is_last, tensors, error, parameters, region_size = frame.value
                yield InferenceResponse(
                    self.request_tensors(frame, tensors, region_size),
                    TritonError(error[1], error[0]) if error is not None else None,
                    parameters,
                )
        finally:
            if not is_last:
                self.say("stop", call)
            with self._state:
                self._boxes.pop(call, None)

    def _call(self) -> int:
        call = next(self._calls)
        with self._state:
            self._boxes[call] = deque()
        return call

    def _wait(self, box: int) -> Frame:
        while True:
            with self._state:
                while not self._boxes[box] and self._is_read:
                    self._state.wait()
                if self._boxes[box]:
                    return self._boxes[box].popleft()
                self._is_read = True
            self._hand_out(self._incoming.receive(self._socket))

    def _hand_out(self, frames: list[Frame] | None) -> None:
        """What this thread has read, and the reading too: the next who waits reads."""
        if frames is None:
            os._exit(0)  # the server has gone, and nobody is there to tell
        with self._state:
            for frame in frames:
                kind = frame.value[0]
                if kind == "cancel":
                    self.cancelled.update(frame.value[1])
                elif kind == "answer":
                    if frame.value[1] in self._boxes:
                        self._boxes[frame.value[1]].append(frame)
                else:
                    self._boxes[_WORK].append(frame)
            self._is_read = False
            self._state.notify_all()

    def _outgoing(self) -> Outgoing:
        seen = self._ours.num_seen
        while self._in_use and self._in_use[0][0] <= seen:
            for place in self._in_use.popleft()[1]:
                self._arena.free(place)
        return Outgoing(self._arena)

    def _remember(self, outgoing: Outgoing) -> None:
        if outgoing.placed:
            self._in_use.append((next(self._num_frames), outgoing.placed))


def _described(outgoing: Outgoing, tensor: Tensor) -> list[Any]:
    array = tensor._array
    if tensor._of_torch is None and array.nbytes < LEAST_SHARED and tensor._type != BYTES:  # the usual one, at once
        return outgoing.tensor(tensor._name, tensor._type, array.shape, array.tobytes())
    return outgoing.tensor(tensor._name, tensor._type, tensor.shape(), raw_of_tensor(tensor))


def _told(outgoing: Outgoing, number: int, response: InferenceResponse | None, is_final: bool) -> list[Any]:
    if response is None:
        return [number, is_final, None, None, None]
    error = response._error
    if error is not None:
        return [number, is_final, [], [error.code(), error.message()], None]
    tensors = [_described(outgoing, one) for one in response._output_tensors]
    return [number, is_final, tensors, None, response._parameters or None]


def _tensor(frame: Frame, described: list[Any], region: Region) -> Tensor:
    name, datatype, shape, raw = frame.tensor(described, region)
    return Tensor._made(name, datatype, array_of(datatype, shape, memoryview(raw)))
