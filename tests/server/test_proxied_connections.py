"""Connections to a hostile server behind the platform: one response per request, and nothing after the client left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmariner.http.proxied_responses import ProxiedResponse

from .conftest import body_of, exchange, serving, statuses, wait_until

WEBSOCKET = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
PLAIN = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
TWO = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsmuggle"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def respond(response: bytes, request: bytes) -> bytes:
    """What a client gets of the platform where the server behind it answers so, and closes."""

    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    async with await asyncio.start_server(hostile, "127.0.0.1", 0) as behind:
        port = behind.sockets[0].getsockname()[1]

        async def application(scope: Any, receive: Any, send: Any) -> None:
            connect = lambda: asyncio.open_connection("127.0.0.1", port)  # noqa: E731
            await ProxiedResponse(connect, b"/", "own", lambda: None)(scope, receive, send)

        async with serving(application) as (_, front):
            return await exchange(front, request)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (TWO, 200),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200),
        (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n" + OK, 200),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n", 503),
        (b"HTTP/1.1 999 x\r\nContent-Length: 2\r\n\r\nok", 503),
    ],
)
@pytest.mark.parametrize("request_head", [PLAIN, WEBSOCKET])
def test_a_request_has_one_final_response_whatever_the_server_sends(
    request_head: bytes, response: bytes, expected: int
) -> None:
    answer = asyncio.run(respond(response, request_head))
    assert statuses(answer) == [expected]
    assert answer.lower().count(b"content-length:") == 1
    assert expected != 200 or body_of(answer) == b"ok"


def test_a_request_that_offers_no_other_protocol_changes_to_none() -> None:
    assert statuses(asyncio.run(respond(SWITCHED + OK, PLAIN))) == [503]


def test_a_websocket_that_is_not_answered_ends_with_its_client() -> None:
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        ended.set()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(silent, "127.0.0.1", 0) as behind:
            port = behind.sockets[0].getsockname()[1]
            connected = asyncio.Event()

            async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                streams = await asyncio.open_connection("127.0.0.1", port)
                connected.set()
                return streams

            async with serving(ProxiedResponse(connect, b"/", "own", lambda: None)) as (_, front):
                _, writer = await asyncio.open_connection("127.0.0.1", front)
                writer.write(WEBSOCKET)
                await asyncio.wait_for(connected.wait(), 10)
                writer.close()
                await wait_until(ended.is_set)

    asyncio.run(run())
