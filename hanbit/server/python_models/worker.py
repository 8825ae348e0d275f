"""The process of one instance of a Python model: python worker.py SOCKET THEIRS OURS, three open descriptors.

It loads what the server names, says how that went, executes batches until it is told to end, and goes when the server
goes. What the model prints goes where this process's output goes.
"""

import asyncio
import os
import select
import socket
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

if "hanbit" not in sys.modules and not any((Path(place) / "hanbit").is_dir() for place in sys.path if place):
    # an interpreter of the model's own, which need not have this package installed
    package = types.ModuleType("hanbit")
    package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["hanbit"] = package

from hanbit.server.python_models.api_requests import InferenceRequest, InferenceResponse
from hanbit.server.python_models.connection import Connection
from hanbit.server.python_models.frames import Frame
from hanbit.server.python_models.host import set_host
from hanbit.server.python_models.module import model_class
from hanbit.server.python_models.outlet import RequestOutlet
from hanbit.server.python_models.runner import ModelFault, Runner, completed_config, fail_all
from hanbit.server.python_models.shared import Region


class WorkerHost:
    """What this process's model asks of the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def infer(self, request: InferenceRequest) -> Iterator[InferenceResponse]:
        return self._connection.infer(request)

    async def infer_async(self, request: InferenceRequest, is_whole: bool) -> Iterator[InferenceResponse]:
        def begun() -> Iterator[InferenceResponse]:
            responses = self._connection.infer(request)
            return iter(list(responses)) if is_whole else responses

        return await asyncio.get_running_loop().run_in_executor(None, begun)

    def control(self, verb: str, **arguments: Any) -> Any:
        return self._connection.control(verb, **arguments)

    def log(self, level: str, message: str) -> None:
        self._connection.log(level, message)


def main(descriptors: Sequence[str]) -> None:
    number, theirs, ours = (int(one) for one in descriptors)
    sock = socket.socket(fileno=number)
    threading.Thread(target=_end_with, args=(number,), name="server", daemon=True).start()
    connection = Connection(sock, Region(theirs), Region(ours))
    set_host(WorkerHost(connection))
    try:
        runner = _loaded(connection)
    except ModelFault as problem:
        connection.say("failed", str(problem))
        sys.exit(1)
    connection.say("ready")
    _serve(connection, runner)


def _loaded(connection: Connection) -> Runner:
    """Raises ModelFault."""
    _, folder, version, file, config, _ = connection.next_work().value
    try:
        found = model_class(Path(folder), version, file)
    except BaseException as problem:
        raise ModelFault(f"{file} cannot be imported: {type(problem).__name__}: {problem}") from problem
    connection.say("loaded", completed_config(found, config))
    _, args, is_decoupled, _ = connection.next_work().value
    return Runner(found, args, is_decoupled)


def _serve(connection: Connection, runner: Runner) -> None:
    while True:
        frame = connection.next_work()
        if frame.value[0] == "end":
            runner.finalize()
            return
        _run(connection, runner, frame)
        del frame


def _run(connection: Connection, runner: Runner, frame: Frame) -> None:
    _, rows, region_size = frame.value
    numbers = [row[0] for row in rows]
    requests = [_request(connection, runner, frame, row, region_size) for row in rows]

    def executed(responses: Sequence[InferenceResponse | None]) -> None:
        connection.responses([(*pair, True) for pair in zip(numbers, responses, strict=False)], True)
        for request in requests if responses else ():
            request._outlet.is_closed = True  # type: ignore[union-attr]

    try:
        runner.execute(requests, executed)
    except Exception as problem:  # beside a ModelFault: what a response holds cannot be sent
        fault = problem if isinstance(problem, ModelFault) else ModelFault(f"a response cannot be sent: {problem}")
        fail_all(requests, fault)
        connection.responses((), True)
    if not runner.is_decoupled:
        connection.cancelled.difference_update(numbers)


class WorkerOutlet(RequestOutlet):
    __slots__ = ("_connection", "_number")

    def __init__(self, connection: Connection, number: int, is_decoupled: bool) -> None:
        super().__init__(is_decoupled)
        self._connection, self._number = connection, number

    def is_cancelled(self) -> bool:
        cancelled = self._connection.cancelled
        if self._number not in cancelled:
            self._connection.poll()
        return self._number in cancelled

    def deliver(self, response: InferenceResponse | None, is_final: bool) -> None:
        self._connection.responses([(self._number, response, is_final)], False)
        if is_final:
            self._connection.cancelled.discard(self._number)

    def forget(self, response: InferenceResponse) -> None:
        self._connection.forget(self._number, response)


def _request(
    connection: Connection, runner: Runner, frame: Frame, row: list[Any], region_size: int
) -> InferenceRequest:
    number, id, correlation_id, flags, timeout, outputs, parameters, tensors = row
    outlet = WorkerOutlet(connection, number, runner.is_decoupled)
    inputs = connection.request_tensors(frame, tensors, region_size)
    return InferenceRequest._incoming(id, correlation_id, inputs, outputs, flags, timeout, parameters, outlet)


def _end_with(descriptor: int) -> None:
    """Whatever the model does: a server that has gone takes its workers along."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)
    while not any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll()):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
