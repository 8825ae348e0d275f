"""Ports that are taken before anything slow is done."""

import asyncio
import socket

import pytest

from hanbit.common.errors import ConfigError
from hanbit.server.engines import Engines
from hanbit.server.grpc_server import GrpcServer
from hanbit.server.models import Catalogue
from hanbit.server.options import EngineOptions
from hanbit.server.ports import listen


def test_a_port_that_is_taken_after_it_was_found_free_is_named() -> None:
    """Two servers that start at the same moment: gRPC binds by itself, a moment after the check."""

    async def bind_twice() -> None:
        with listen("127.0.0.1", 0, "--grpc-port") as first:
            port = first.getsockname()[1]
            with pytest.raises(ConfigError, match=rf"port {port} is in use by process \d+ .*--grpc-port"):
                GrpcServer(Catalogue([], Engines(EngineOptions())), f"127.0.0.1:{port}", None)

    asyncio.run(bind_twice())


def test_a_connection_sends_each_token_at_once() -> None:
    """Nagle's algorithm would hold a small piece back until the last one is confirmed: 40 ms on Linux."""

    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            option = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            found.set_result(option)
            writer.close()

        with listen("127.0.0.1", 0, "--http-port") as port:
            async with await asyncio.start_server(greet, sock=port):
                _, writer = await asyncio.open_connection(*port.getsockname())
                option = await found
                writer.close()
        return option

    assert asyncio.run(accepted()) != 0
