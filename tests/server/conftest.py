"""A server on a free port of loopback, around an application of the test's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llmariner.server import Application, Server

__all__ = ["exchange", "serving"]


@asynccontextmanager
async def serving(application: Application, *, grace: float = 2.0) -> AsyncIterator[tuple[Server, int]]:
    """The server and its port, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(application, host="127.0.0.1", port=port, grace=grace)
    task = asyncio.create_task(server.serve())
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            break
    try:
        yield server, port
    finally:
        server.end()
        await task


async def exchange(port: int, request: bytes, *, until_closed: bool = True) -> bytes:
    """Send bytes on a new connection; everything that comes back, to the connection's end or for half a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = b""
    try:
        async with asyncio.timeout(5.0 if until_closed else 0.5):
            while part := await reader.read(65536):
                answer += part
    except TimeoutError:
        assert not until_closed, f"the connection was not closed after {answer!r}"
    writer.close()
    return answer
