"""Passes requests of the tunnel on to the cluster's API server, as the person whom the control plane names, or as itself.

The agent's own rights are for the agent alone: a request that names nobody is refused. What the control plane may say is
listed here, so that a control plane in wrong hands gets no more than what the groups it names may do.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
from typing import Any

import httptools
from h2.errors import ErrorCodes

from llmariner.agent.tunnel.api_server import ApiServer
from llmariner.platform.tunnel import HeadTooLong, Stream, StreamReset
from llmariner.platform.tunnel.both_directions import run_both
from llmariner.platform.tunnel.stream import Headers
from llmariner.platform.tunnel.websocket import accept_value

__all__ = ["KubernetesRelay"]

_log = logging.getLogger(__name__)
_PATH = re.compile(rb"/(?:version|apis?(?:/[A-Za-z0-9][A-Za-z0-9_.-]*)*)(\?[!-\"$-~]*)?")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_METHODS = frozenset({b"GET", b"POST"})
_CONTROL_PLANE_METHODS = _METHODS | {b"PATCH", b"DELETE"}
_CONTROL_PLANE_USER = b"llmariner:control-plane"
_PASSED = frozenset(
    {b"accept", b"content-type", b"user-agent", b"x-stream-protocol-version", b"sec-websocket-protocol"}
)
_USER, _GROUP, _EXTRA = b"impersonate-user", b"impersonate-group", b"impersonate-extra-llmariner.ai%2fuser"
_PREFIX = b"llmariner:"
_PROTOCOLS = {b"websocket": b"websocket", b"SPDY/3.1": b"SPDY/3.1"}
_CONNECT_SECONDS = 10.0
_READ_BYTES = 64 * 1024
_HEAD_BYTES = 64 * 1024
_HOP_BY_HOP = frozenset({b"connection", b"transfer-encoding", b"keep-alive", b"upgrade", b"proxy-connection", b"te"})


class _Refused(Exception):
    """The request is not one that the agent passes on."""


class KubernetesRelay:
    """The handler of a connection's streams. One connection to the API server per request."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def __call__(self, stream: Stream) -> None:
        """Serve one request."""
        try:
            head, key = self._request_head(stream)
        except _Refused as refusal:
            await _answer(stream, 403, str(refusal))
            return
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(
                    self._server.host, self._server.port, ssl=self._server.tls, limit=2 * _READ_BYTES
                )
        except (OSError, TimeoutError) as error:
            await _answer(stream, 502, f"The agent can't reach its API server: {type(error).__name__}: {error}")
            return
        exchange = _Exchange(stream, reader, writer)
        try:
            await exchange.run(head, key)
        except (OSError, httptools.HttpParserError, ValueError, HeadTooLong) as error:
            _log.info("an exchange with the API server broke off: %s: %s", type(error).__name__, error)
            stream.reset(ErrorCodes.INTERNAL_ERROR)
        except StreamReset:
            pass
        finally:
            writer.transport.abort()

    def _request_head(self, stream: Stream) -> tuple[bytes, bytes]:
        """The head for the API server, and the websocket's key if it offers one."""
        protocol = stream.field(b":protocol")
        upgrade = stream.field(b":method") == b"CONNECT"
        method = stream.field(b"llmariner-method") if upgrade else stream.field(b":method")
        path = stream.field(b":path")
        own = stream.field(_USER) == _CONTROL_PLANE_USER
        methods = _CONTROL_PLANE_METHODS if own and not upgrade else _METHODS
        if method not in methods or not _PATH.fullmatch(path) or (upgrade and protocol not in _PROTOCOLS):
            raise _Refused(
                "The agent passes on GET and POST of Kubernetes' API, PATCH and DELETE of the control plane's own, and "
                "changes to websocket and SPDY/3.1."
            )
        host = b"%b:%d" % (self._server.host.encode(), self._server.port)
        fields = [(b"host", host), (b"authorization", b"Bearer " + self._server.token().encode())]
        fields += [*_person(stream.request), *(each for each in stream.request if each[0] in _PASSED)]
        if any(not _VALUE.fullmatch(value) for _, value in fields):
            raise _Refused("A field of the request has bytes that HTTP/1.1 does not allow.")
        key = b""
        if upgrade:
            fields += [(b"connection", b"Upgrade"), (b"upgrade", protocol)]
            if protocol == b"websocket":
                key = base64.b64encode(os.urandom(16))
                fields += [(b"sec-websocket-key", key), (b"sec-websocket-version", b"13")]
        else:
            fields.append((b"connection", b"close"))
            if method != b"GET":
                length = _body_length(stream)
                fields.append((b"content-length", length) if length else (b"transfer-encoding", b"chunked"))
        lines = b"".join(b"%b: %b\r\n" % each for each in fields)
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, path, lines), key


def _body_length(stream: Stream) -> bytes:
    """The length of the body, which HTTP/2 holds it to; empty: it is not known."""
    length = stream.field(b"content-length")
    return length if length.isdigit() else b""


def _person(request: Headers) -> list[tuple[bytes, bytes]]:
    """The fields of the impersonation. _Refused unless they name a user and groups of the control plane's own."""
    found = [(name, value) for name, value in request if name.startswith(b"impersonate-")]
    users = [value for name, value in found if name == _USER]
    names = [value for name, value in found if name in (_USER, _GROUP)]
    if len(users) != 1 or any(not value.startswith(_PREFIX) for value in names):
        raise _Refused("The agent passes on requests of people whom the control plane names, with names of its own.")
    if any(name not in (_USER, _GROUP, _EXTRA) for name, _ in found):
        raise _Refused("The agent impersonates a user with groups, and nothing else.")
    return found


class _Exchange:
    """One request and its response, on a connection of its own; also the callbacks of the response's parser."""

    def __init__(self, stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stream = stream
        self._reader = reader
        self._writer = writer
        self._parser = httptools.HttpResponseParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._head_complete = self._complete = self._responded = False

    async def run(self, head: bytes, key: bytes) -> None:
        """Send the request, and pass the response on as it arrives."""
        self._writer.write(head)
        upgrade = self._stream.field(b":method") == b"CONNECT"
        sender = None if upgrade else asyncio.create_task(self._send_body())
        try:
            rest = await self._receive(upgrade=upgrade)
        finally:
            if sender is not None:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
        if rest is not None:
            await self._switch(rest, key)

    async def _send_body(self) -> None:
        has_body = self._stream.field(b":method") != b"GET"
        chunked = has_body and not _body_length(self._stream)
        while data := await self._stream.read():
            if has_body:
                self._writer.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
                await self._writer.drain()
        if chunked:
            self._writer.write(b"0\r\n\r\n")

    async def _receive(self, *, upgrade: bool) -> bytes | None:
        """Pass the response on; the bytes behind the head when the protocol changes."""
        while not self._complete:
            data = await self._reader.read(_READ_BYTES)
            if not data:
                if self._head_complete and not self._has_framing():
                    break  # a response without a length ends with its connection
                raise ValueError("the API server closed the connection within its response")
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as change:
                if not upgrade:
                    raise ValueError("a change of protocol that nobody asked for") from change
                return data[change.args[0] :]
            if not self._head_complete:
                self._head_bytes += len(data)
                if self._head_bytes > _HEAD_BYTES:
                    raise ValueError("the head of the response is too long")
                continue
            await self._pass_on()
        await self._pass_on()
        self._stream.end()
        return None

    async def _pass_on(self) -> None:
        if not self._responded:
            self._responded = True
            kept = [each for each in self._fields if each[0] not in _HOP_BY_HOP]
            self._stream.respond(self._parser.get_status_code(), kept)
        body, self._body = b"".join(self._body), []
        await self._stream.write(body)

    async def _switch(self, rest: bytes, key: bytes) -> None:
        """The API server changed the protocol: copy bytes from now on."""
        fields = dict(self._fields)
        if key and fields.get(b"sec-websocket-accept") != accept_value(key):
            raise ValueError("the API server accepted another websocket than the one that was offered")
        passed = (b"sec-websocket-protocol", b"x-stream-protocol-version")
        self._stream.respond(200, [each for each in self._fields if each[0] in passed])
        await self._stream.write(rest)
        await run_both(self._copy_out(), self._copy_in())

    async def _copy_out(self) -> None:
        while data := await self._reader.read(_READ_BYTES):
            await self._stream.write(data)
        self._stream.end()

    async def _copy_in(self) -> None:
        while data := await self._stream.read():
            self._writer.write(data)
            await self._writer.drain()
        if self._writer.can_write_eof():
            self._writer.write_eof()

    def _has_framing(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self._fields)

    # --- callbacks of the parser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_complete:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() >= 200 or self._parser.get_status_code() == 101:
            self._head_complete = True
        else:
            self._fields.clear()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._head_complete:
            self._complete = True


async def _answer(stream: Stream, status: int, message: str) -> None:
    reason: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
    stream.respond(status, [(b"content-type", b"application/json")])
    await stream.write(json.dumps({**reason, "message": message}).encode(), end=True)
