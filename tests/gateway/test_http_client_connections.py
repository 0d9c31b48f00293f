"""How the HTTP client of the token path connects to a server: the lookup of its name, and the time that it may take."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from llmariner.http_client import Client, ConnectionFailed, client

from .test_http_client import OK


def test_the_full_name_of_a_service_is_looked_up_once_in_no_search_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **named: Any) -> Any:
        asked.append(host)
        return resolve("127.0.0.1", *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    heads: list[bytes] = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(respond, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for host in ("one.models.svc.cluster.local", "engine.example.org"):
            response = await Client().request(f"http://{host}:{port}", "GET", "/x")
            assert await response.read() == b"ok"
        server.close()

    asyncio.run(scenario())
    assert asked == ["one.models.svc.cluster.local.", "engine.example.org"]
    assert b"\r\nhost: one.models.svc.cluster.local:" in heads[0]


def test_the_error_of_a_connection_tells_that_its_time_was_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_CONNECT_SECONDS", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(0.1))
    with pytest.raises(ConnectionFailed, match="timed out"):
        asyncio.run(Client().request("http://engine.example.org:80", "GET", "/x"))
