"""A server of another process: ports for it, its start, the moment from which it answers, its end."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hanbit.common.errors import LaunchError

_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Addresses:
    """host:port of each."""

    http: str
    grpc: str


def free_ports(count: int) -> list[int]:
    """Different ones, free a moment ago: another process may take one before its server does."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running(
    command: Sequence[str], surroundings: Mapping[str, str], log: Path, http: int, grpc: int
) -> Iterator[Addresses]:
    """The server until the block ends, ready to be asked; it writes to `log`. Raises LaunchError with the log's end."""
    with open(log, "wb") as file:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(surroundings),
                start_new_session=True,
            )
        except OSError as problem:
            raise LaunchError(f"{command[0]} cannot be run: {problem.strerror}") from None
    try:
        _wait_until_ready(process, http, log)
        yield Addresses(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):  # a server that was ended by a check leaves its models' processes
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def hanbit_serving(repository: Path, log: Path, *flags: str) -> Iterator[Addresses]:
    """This project's own server over `repository`, as users start it, until the block ends. Raises LaunchError."""
    http, grpc = free_ports(2)
    command = [sys.executable, "-m", "hanbit", "serve", f"--model-repository={repository}"]
    command += [f"--http-port={http}", f"--grpc-port={grpc}", "--no-allow-metrics", *flags]
    with running(command, os.environ, log, http, grpc) as addresses:
        yield addresses


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LaunchError(f"the server ended with {process.returncode}:\n{_end_of(log)}")
        if _is_ready(port):
            return
        time.sleep(0.1)
    raise LaunchError(f"the server was not ready in {_PATIENCE_SECONDS:.0f} s:\n{_end_of(log)}")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:]
