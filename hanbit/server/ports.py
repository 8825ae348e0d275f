"""Take a port before anything slow is done, and say who has it if it cannot be had."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from hanbit.common.errors import ConfigError

_LISTENING = "0A"


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. `flag`: the option to choose another with. Raises ConfigError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # with the protocol named: only then does asyncio turn Nagle's algorithm off, which holds a token for 40 ms
        found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(2048)
    except OSError as problem:
        raise _as_error(problem, host, port, flag) from None
    except OverflowError:
        raise ConfigError(f"{flag} {port} must be from 0 (a free one) to 65535") from None
    found.setblocking(False)
    return found


def check_free(host: str, port: int, flag: str) -> None:
    """For a server that takes the port itself, a moment later."""
    if port:
        listen(host, port, flag).close()


def in_use(port: int, flag: str) -> ConfigError:
    owner = owner_of(port)
    return ConfigError(f"port {port} is in use{f' by {owner}' if owner else ''}: choose another with {flag}")


def _as_error(problem: OSError, host: str, port: int, flag: str) -> ConfigError:
    if problem.errno == errno.EADDRINUSE:
        return in_use(port, flag)
    return ConfigError(f"{host}:{port} cannot be listened on ({problem.strerror}): see --host and {flag}")


def owner_of(port: int) -> str | None:
    """Command and process number of who listens on a port, where Linux lets us see."""
    inodes = _listening_inodes(port)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if inodes.intersection(_open_files(process)):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({command[:80]})"
        except OSError:
            continue  # it has ended, or is another user's
    return None


def _open_files(process: Path) -> Iterator[str]:
    for link in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed since it was listed, by a process that is at work
            yield os.readlink(link)


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found
