"""What a notebook's server gets of a request, and what a client gets of its response."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from llmariner.errors import PermissionDenied
from llmariner.http import proxied_responses
from llmariner.http.proxied_responses import ProxiedResponse

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nServer: x\r\n"
SENT: list[tuple[bytes, bytes]] = [
    (b"authorization", b"Bearer sk-secret"),
    (b"cookie", b"llmariner-notebook=secret; _xsrf=own; other=secret"),
    (b"openai-project", b"secret"),
    (b"x-forwarded-for", b"secret"),
    (b"origin", b"http://secret"),
    (b"accept", b"text/plain"),
]


def exchange(
    response: bytes,
    *,
    method: str = "GET",
    headers: Any = (),
    body: tuple[bytes, ...] = (b"",),
    check: Callable[[], object] | None = None,
) -> tuple[bytes, list[dict[str, Any]]]:
    """What the server got, and the messages to the client. The server answers once it has the whole request.

    With `check` it never ends its response.
    """
    got, ended = bytearray(), asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.extend(await reader.readuntil(b"\r\n\r\n"))
        while body != (b"",) and not got.endswith((b"0\r\n\r\n", b"".join(body))):
            got.extend(await reader.read(1000))
        writer.write(response)
        if check is not None:
            with contextlib.suppress(OSError):
                await reader.read()
        writer.close()
        ended.set()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in body]
        messages[-1]["more_body"] = False

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        proxied = ProxiedResponse(
            lambda: asyncio.open_connection("127.0.0.1", port),
            b"/v1/services/notebooks/nb-1/lab?a=b",
            "own",
            check or (lambda: None),
        )
        scope = {"type": "http", "method": method, "headers": list(headers), "extensions": {}}
        async with server, asyncio.timeout(30):
            await proxied(scope, receive, send)
            await ended.wait()

    asyncio.run(run())
    return bytes(got), sent


def test_a_server_gets_its_own_token_and_nothing_of_the_platforms() -> None:
    got, sent = exchange(RESPONSE + b"\r\nok", headers=SENT)
    assert got.startswith(b"GET /v1/services/notebooks/nb-1/lab?a=b HTTP/1.1\r\nHost: localhost\r\n")
    assert b"secret" not in got
    assert got.count(b"Authorization: ") == 1
    assert b"Authorization: token own\r\n" in got
    assert b"Cookie: _xsrf=own\r\n" in got
    assert b"accept: text/plain\r\n" in got
    assert (sent[0]["status"], b"".join(each.get("body", b"") for each in sent)) == (200, b"ok")
    assert b"server" not in dict(sent[0]["headers"])


def test_a_server_sets_no_cookie_but_its_own() -> None:
    fields = b"Set-Cookie: llmariner-notebook=x; Path=/\r\nSet-Cookie: username-x=y\r\nSet-Cookie: _xsrf=z; Path=/a\r\n"
    _, sent = exchange(RESPONSE + fields + b"\r\nok")
    assert [value for name, value in sent[0]["headers"] if name == b"set-cookie"] == [b"_xsrf=z; Path=/a"]


@pytest.mark.parametrize(
    ("headers", "body", "end"),
    [
        ([(b"transfer-encoding", b"chunked")], (b"ab", b"c"), b"\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        ([(b"content-length", b"3")], (b"ab", b"c"), b"\r\n\r\nabc"),
    ],
)
def test_bodies_are_passed_on(headers: Any, body: tuple[bytes, ...], end: bytes) -> None:
    got, sent = exchange(RESPONSE + b"\r\nok", method="POST", headers=headers, body=body)
    assert got.endswith(end)
    assert sent[0]["status"] == 200


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b""),
    ],
)
def test_each_framing_of_a_response_ends(response: bytes, body: bytes) -> None:
    _, sent = exchange(response)
    assert b"".join(each.get("body", b"") for each in sent) == body
    assert not sent[-1].get("more_body", False)


def test_a_response_that_breaks_off_has_no_end() -> None:
    _, sent = exchange(RESPONSE.replace(b"Length: 2", b"Length: 9") + b"\r\nok")
    assert not [each for each in sent if each["type"] == "http.response.body" and not each.get("more_body")]


@pytest.mark.parametrize(
    "response", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"]
)
def test_what_is_no_response_is_an_error(response: bytes) -> None:
    _, sent = exchange(response)
    assert sent[0]["status"] == 503
    assert b"notebook_unreachable" in sent[-1]["body"]


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200 OK\r\n\r\nso far"])
def test_a_request_ends_when_its_caller_may_not_use_the_notebook_any_more(
    monkeypatch: pytest.MonkeyPatch, response: bytes
) -> None:
    monkeypatch.setattr(proxied_responses, "_CHECK_SECONDS", 0.05)

    def check() -> None:
        raise PermissionDenied("It is not shared any more.", code="notebook_not_shared")

    _, sent = exchange(response, check=check)
    if response:  # what has begun stays without its end
        assert b"".join(each.get("body", b"") for each in sent) == b"so far"
        assert all(each["more_body"] for each in sent[1:])
    else:
        assert sent[0]["status"] == 403
        assert b"notebook_not_shared" in sent[-1]["body"]
