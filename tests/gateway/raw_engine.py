"""An engine that sends arbitrary bytes: a coroutine of the test responds to each request on its port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

__all__ = ["RawEngine", "raw_engine"]

Reply = Callable[["RawEngine", asyncio.StreamWriter], Awaitable[None]]


class RawEngine:
    """`requests`: the heads received so far; `connections`: how many were opened; `closed`: how many of them ended."""

    def __init__(self, reply: Reply) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = 0
        self.origin = ""
        self._reply = reply

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(
                        (line[16:] for line in head.split(b"\r\n") if line.startswith(b"content-length: ")), b"0"
                    )
                    await reader.readexactly(int(length))
                    self.requests.append(head)
                    await self._reply(self, writer)
                    await writer.drain()
        finally:
            self.closed += 1
            writer.transport.abort()


@asynccontextmanager
async def raw_engine(reply: Reply) -> AsyncIterator[RawEngine]:
    """Run an engine for the duration of the block."""
    engine = RawEngine(reply)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    engine.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield engine
    finally:
        server.close()
