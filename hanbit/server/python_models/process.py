"""A worker process and the server's end of its socket, on the event loop; no thread reads or writes."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hanbit.server.python_models.frames import Frame, Incoming, Outgoing, Raw
from hanbit.server.python_models.shared import Arena, Region, new_region

_WORKER = Path(__file__).with_name("worker.py")
_BUFFER_BYTES = 1 << 20
_STANDARD_ERROR = 2


class WorkerProcess:
    """`handle` gets every frame; `gone` is called once, when nobody is at the other end any more."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, theirs: int, ours: int) -> None:
        self.process = process
        self._socket = sock
        self.region = Region(theirs)  # which the worker writes
        self.arena = Arena(Region(ours))
        self._descriptors = (theirs, ours)
        self._incoming = Incoming()
        self._unsent: deque[Raw] = deque()
        self._loop = asyncio.get_running_loop()
        self._handle: Callable[[Frame], None] = lambda frame: None
        self._gone: Callable[[], None] = lambda: None
        self.is_open = True

    @classmethod
    async def start(cls, interpreter: str, environment: dict[str, str]) -> "WorkerProcess":
        """Raises OSError."""
        mine, its = socket.socketpair()
        theirs, ours = new_region(), new_region()
        try:
            for one in (mine, its):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            numbers = (its.fileno(), ours, theirs)
            process = await asyncio.to_thread(
                subprocess.Popen,
                [interpreter, str(_WORKER), *map(str, numbers)],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stdout=_STANDARD_ERROR,  # ours is for those who started the server
                start_new_session=True,  # Ctrl-C is for the server alone, which ends its workers
                env={**os.environ, **environment},
            )
        except BaseException:
            mine.close()
            os.close(theirs)
            os.close(ours)
            raise
        finally:
            its.close()
        mine.setblocking(False)
        return cls(process, mine, theirs, ours)

    def listen(self, handle: Callable[[Frame], None], gone: Callable[[], None]) -> None:
        self._handle, self._gone = handle, gone
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def say(self, *value: Any) -> None:
        self.send(Outgoing(None), value)

    def send(self, outgoing: Outgoing, value: Sequence[Any]) -> None:
        """The region's size is added behind `value`. Nothing happens if the worker has gone."""
        if not self.is_open:
            return
        parts = outgoing.bytes([*value, outgoing.region_size])
        if self._unsent:
            self._unsent += parts
            return
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the reader will notice
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            self._loop.add_writer(self._socket.fileno(), self._writable)

    @property
    def num_unsent_bytes(self) -> int:
        return sum(len(one) for one in self._unsent)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """The socket and the memory; the process is another matter."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            for one in self._descriptors:
                os.close(one)

    async def ended(self, patience_seconds: float) -> str:
        """How it ended, for who asks; it is killed if it does not end by itself."""
        try:
            code = await asyncio.to_thread(self.process.wait, patience_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            code = await asyncio.to_thread(self.process.wait)
        if code >= 0:
            return f"its process ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"its process ended by {signal.Signals(-code).name}"
        return f"its process ended by signal {-code}"

    def _readable(self) -> None:
        try:
            frames = self._incoming.receive(self._socket)
        except BlockingIOError:
            return
        except ValueError:  # whatever it is that writes there, it is no worker
            self.kill()
            frames = None
        if frames is None:
            self.close()
            self._gone()
            return
        for frame in frames:
            self._handle(frame)

    def _writable(self) -> None:
        while self._unsent:
            data = self._unsent.popleft()
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._unsent.clear()
                break
            if sent < len(data):
                self._unsent.appendleft(memoryview(data)[sent:])
                return
        self._loop.remove_writer(self._socket.fileno())
