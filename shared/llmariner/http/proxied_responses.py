"""Responses that a notebook's server gives: a request passed on to it as it arrives, and websockets.

The server belongs to whom runs programs in it. It gets nothing that a client says about itself but what stands in `_PASSED`:
no key, no cookie of the platform. What it answers reaches the client by `_RESPONSE_FIELDS` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

import httptools
from starlette.responses import Response

from llmariner.errors import InvalidRequest, PlatformError, Unavailable
from llmariner.gateway.responses.messages import default_headers, send_error
from llmariner.http.protocol_upgrades import offered_protocol, upgradable_cycle, upgraded_streams

__all__ = ["ProxiedResponse"]

Fields = list[tuple[bytes, bytes]]
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
_PASSED = frozenset(
    b"accept accept-encoding accept-language content-type content-length if-modified-since if-none-match if-range range "
    b"user-agent x-requested-with x-xsrftoken sec-websocket-key sec-websocket-version sec-websocket-protocol "
    b"sec-websocket-extensions".split()
)
_RESPONSE_FIELDS = frozenset(
    b"accept-ranges cache-control content-disposition content-encoding content-language content-length content-range "
    b"content-security-policy content-type etag last-modified location vary x-content-type-options".split()
)
_COOKIE = "_xsrf"
"""The cookie of JupyterLab's own that its pages read. All others stay here."""
_MAX_HEAD_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
_SECONDS = 3600.0
"""How long a request may take."""
_CHECK_SECONDS = 10.0
_WITHOUT_BODY = (204, 304)


class ProxiedResponse(Response):
    """Passes a request on. `target`: its path and query; `token`: what the server wants to see.

    `check` is called while the request or its websocket is open, in a thread: it raises PlatformError once its caller may
    use the notebook no more, which ends it.
    """

    def __init__(self, connect: Connect, target: bytes, token: str, check: Callable[[], object]) -> None:
        super().__init__()
        self._connect = connect
        self._target = target
        self._token = token
        self._check = check

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        writer = None
        try:
            protocol = offered_protocol(scope["headers"])
            if protocol not in (None, "websocket"):
                raise InvalidRequest("A notebook speaks HTTP and websockets alone.", code="invalid_upgrade")
            reader, writer = await _connected(self._connect)
            writer.write(self._head(scope, protocol is not None))
            if protocol is None:
                await self._exchange_watched(reader, writer, scope, receive, send)
            else:
                await self._open_websocket(reader, writer, scope, send)
        except PlatformError as error:
            await send_error(send, error, default_headers())
        finally:
            if writer is not None:
                writer.transport.abort()

    def _head(self, scope: Any, upgrade: bool) -> bytes:
        lines = [scope["method"].encode() + b" " + self._target + b" HTTP/1.1", b"Host: localhost"]
        lines.append(b"Authorization: token " + self._token.encode())
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket" if upgrade else b"Connection: close")
        for name, value in scope["headers"]:
            if name in _PASSED:
                lines.append(name + b": " + value)
            elif name == b"cookie" and (own := _own_cookie(value)) is not None:
                lines.append(b"Cookie: " + own)
        if _is_chunked(scope):
            lines.append(b"Transfer-Encoding: chunked")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def _exchange_watched(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scope: Any, receive: Any, send: Any
    ) -> None:
        """Send the request and its response, while the caller may use the notebook: a program's may take an hour."""
        has_begun = False

        async def send_noted(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        exchange = asyncio.create_task(_exchange(reader, writer, scope, receive, send_noted))
        watch = asyncio.create_task(self._watch())
        try:
            await asyncio.wait((exchange, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (exchange, watch):
                each.cancel()
            await asyncio.gather(exchange, watch, return_exceptions=True)
        if not exchange.cancelled():
            exchange.result()
        elif not has_begun:  # else the response stays without its end
            raise watch.result()

    async def _open_websocket(
        self, server: asyncio.StreamReader, writer: asyncio.StreamWriter, scope: Any, send: Any
    ) -> None:
        cycle = upgradable_cycle(scope)
        cycle.add_disconnect_callback(writer.transport.abort)  # the server may never answer a client that left
        head = _ResponseHead(upgrade=True)
        try:
            async with asyncio.timeout(_SECONDS):
                # Bytes behind the head are the other protocol's.
                await _read_head(head, lambda: server.readuntil(b"\r\n\r\n"))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise _broken_off() from error
        if head.status != 101:
            await _send_response(head, server, scope, send)
            return
        fields = [each for each in head.fields if each[0].startswith(b"sec-websocket-")]
        reader, client = upgraded_streams(cycle, [(b"upgrade", b"websocket"), *fields], writer.transport.abort)
        copies = (_copy(reader, writer), _copy(server, client), self._watch())
        tasks = [asyncio.create_task(each) for each in copies]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            client.close()

    async def _watch(self) -> PlatformError:
        """Why the caller may not use the notebook any more, once that is so."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                await asyncio.to_thread(self._check)
            except Unavailable:  # the database; who may use it now is found out later
                continue
            except PlatformError as error:
                return error


class _ResponseHead:
    """Parses one response; `body` holds what was parsed of its body and not taken yet.

    Interim responses before it are left out, and so is what follows its end: a client or a proxy in front would take that
    for the response to another request. `upgrade`: whether it may change the protocol.
    """

    def __init__(self, *, upgrade: bool = False) -> None:
        self.status = 0
        self._upgrade = upgrade
        self.fields: Fields = []
        self.body = bytearray()
        self.is_complete = self.has_head = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Parse further bytes. Raises Unavailable for what is no HTTP."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise _broken_off() from error

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if not self.has_head:  # else a trailer, or a field of another response
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        if self.has_head:
            return
        if 100 <= status < 200 and status != 101:
            self.fields.clear()
            return
        if not 200 <= status < 600 and not (self._upgrade and status == 101):
            raise _broken_off()
        self.status, self.has_head = status, True

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        if not self.is_complete:
            self.body += data

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.is_complete = self.has_head


async def _connected(connect: Connect) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await connect()
    except OSError as error:
        raise _broken_off() from error


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scope: Any, receive: Any, send: Any
) -> None:
    """Send the request's body, and its response."""
    sending = asyncio.create_task(_send_body(receive, writer, chunked=_is_chunked(scope)))
    head = _ResponseHead()
    try:
        async with asyncio.timeout(_SECONDS):
            await _read_head(head, lambda: reader.read(_READ_BYTES))
            await _send_response(head, reader, scope, send)
    except (OSError, TimeoutError) as error:
        if not head.has_head:  # else the response has begun, and stays without its end
            raise _broken_off() from error
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending


async def _read_head(head: _ResponseHead, read: Callable[[], Awaitable[bytes]]) -> None:
    """Feed until the head is there."""
    size = 0
    while not head.has_head:
        data = await read()
        size += len(data)
        if not data or size > _MAX_HEAD_BYTES:
            raise _broken_off()
        head.feed(data)


async def _send_body(receive: Any, writer: asyncio.StreamWriter, *, chunked: bool) -> None:
    """Pass the body on; when the client leaves, break off."""
    more = True
    with contextlib.suppress(OSError):
        while (message := await receive())["type"] != "http.disconnect":
            body = message.get("body", b"")
            if body and more:
                writer.write(b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)
                await writer.drain()
            if more and not message.get("more_body", False):
                more = False
                if chunked:
                    writer.write(b"0\r\n\r\n")
    writer.transport.abort()


async def _send_response(head: _ResponseHead, reader: asyncio.StreamReader, scope: Any, send: Any) -> None:
    """Send a response whose head is parsed, with the rest of its body. One that breaks off stays without its end."""
    fields = [each for each in head.fields if each[0] in _RESPONSE_FIELDS]
    fields += [(name, kept) for name, value in head.fields if name == b"set-cookie" and (kept := _own_field(value))]
    await send({"type": "http.response.start", "status": head.status, "headers": fields})
    if scope["method"] == "HEAD" or head.status in _WITHOUT_BODY:
        await send({"type": "http.response.body", "body": b""})
        return
    ends_with_connection = not any(name in (b"content-length", b"transfer-encoding") for name, _ in head.fields)
    while not head.is_complete:
        if head.body:
            await send({"type": "http.response.body", "body": bytes(head.body), "more_body": True})
            head.body.clear()
        try:
            data = await reader.read(_READ_BYTES)
            if not data and not ends_with_connection:
                return
            if not data:
                break
            head.feed(data)
        except (OSError, PlatformError):  # it began already, so an error can't take its place
            return
    await send({"type": "http.response.body", "body": bytes(head.body)})


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()


def _is_chunked(scope: Any) -> bool:
    return any(name == b"transfer-encoding" for name, _ in scope["headers"])


def _own_cookie(value: bytes) -> bytes | None:
    """JupyterLab's cookie of those that a browser sent."""
    try:
        found = SimpleCookie(value.decode("latin-1")).get(_COOKIE)
    except CookieError:
        return None
    return None if found is None else f"{_COOKIE}={found.coded_value}".encode("latin-1")


def _own_field(value: bytes) -> bytes | None:
    """A field that sets JupyterLab's cookie; no other one is set."""
    return value if value.startswith(_COOKIE.encode() + b"=") else None


def _broken_off() -> Unavailable:
    return Unavailable(
        "The notebook's server does not answer: it may have just ended. `llma workspace notebooks get` says what it does.",
        code="notebook_unreachable",
        headers={"retry-after": "2"},
    )
