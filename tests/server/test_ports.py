"""Ports that are taken before anything slow is done."""

import asyncio
import socket

from hanbit.server.ports import listen


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
