"""A server on a free loopback port, with an application of the test."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from llmariner.server import Application, Server, ServerLimits

__all__ = ["body_of", "count_body", "echo", "exchange", "hello", "serving", "statuses", "wait_until"]

_DEFAULT_LIMITS = ServerLimits()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Responds with the scope and the body of the request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": body.decode(),
    }
    answer = json.dumps(seen).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


async def hello(_scope: Any, _receive: Any, send: Any) -> None:
    """Responds without reading the body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def count_body(_scope: Any, receive: Any, send: Any) -> None:
    """Responds with the number of bytes of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % size})


def body_of(answer: bytes) -> bytes:
    """The body of a response."""
    return answer.partition(b"\r\n\r\n")[2]


def statuses(answer: bytes) -> list[int]:
    """The statuses of all responses on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@asynccontextmanager
async def serving(
    application: Application, *, grace: float = 2.0, limits: ServerLimits = _DEFAULT_LIMITS
) -> AsyncIterator[tuple[Server, int]]:
    """Run a server for the duration of the block; yields it and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(application, host="127.0.0.1", port=port, grace=grace, limits=limits)
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
        server.shut_down()
        await task


async def exchange(port: int, request: bytes, *, until_closed: bool = True) -> bytes:
    """Send bytes on a new connection; returns everything received until it closes, or for half a second."""
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


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true; TimeoutError after ten seconds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.01)
