"""Responses of functions that come out of a tunnel: a request passed on as it arrives, and changes of protocol."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from starlette.responses import Response

from llmariner.errors import InvalidRequest, PlatformError, Unavailable
from llmariner.http.protocol_upgrades import offered_protocol, upgradable_cycle, upgraded_streams
from llmariner.platform.tunnel import Stream, StreamReset, TunnelClosed, TunnelError, TunnelLimits
from llmariner.platform.tunnel.engine_paths import FAILED
from llmariner.platform.tunnel.websocket import AcceptedWebsocket, accept_value
from llmariner.sessions.kubernetes_errors import status_content
from llmariner.sessions.stream_copy import copy_with_socket
from llmariner.sessions.tunnels import not_connected

__all__ = ["Fields", "HeldResponse", "OpenStream", "TunneledResponse", "UpgradedResponse", "WebsocketResponse"]

Fields = list[tuple[bytes, bytes]]
OpenStream = Callable[[Sequence[tuple[bytes, bytes]], bool, set[str]], Awaitable[Stream]]
"""Sends a request's head (`bool`: it has no body) by a replica that is not in the set, and adds the one it used."""
Explain = Callable[[bytes], PlatformError | None]
"""What is sent instead of a response with status 403 and this body; None: nothing."""
Watched = Callable[[Callable[[], object]], AbstractContextManager[None]]
"""A context in which a function is called once the caller may not continue."""
# What the other side may say about its response; everything about the connection is between it and its agent.
_RESPONSE_FIELDS = frozenset(
    {b"content-type", b"content-length", b"content-encoding", b"cache-control", b"warning", b"retry-after", b"audit-id"}
    | {FAILED[0]}
)
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
# A request may find a replica without its connection, and one that was killed, before one that serves it.
_ATTEMPTS = 6
_REFUSAL_BYTES = 16 * 1024


def _unexplained(_body: bytes) -> None:
    return None


class TunneledResponse(Response):
    """Passes a request on and its response back. `open_stream` sends its head; `fields` begin with the pseudo-fields.

    `body` None: a GET, which is sent once more when its connection ends before the response. Others may have had an effect.
    `head_seconds`: how long the cluster may take to respond; None: without a limit. `explain`: what a refusal means.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        fields: Fields,
        body: bytes | None = None,
        head_seconds: float | None = None,
        *,
        explain: Explain = _unexplained,
    ) -> None:
        super().__init__()
        self._open_stream = open_stream
        self._fields = fields
        self._request_body = body
        self._head_seconds = head_seconds
        self._explain = explain

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            stream, watcher, status, headers = await self._begin(receive)
        except PlatformError as error:
            await self._send_error(scope, send, error)
            return
        try:
            await _send_response(stream, status, headers, scope, send, self._explain)
        finally:
            watcher.cancel()

    async def _send_error(self, scope: Any, send: Any, error: PlatformError) -> None:
        await send_status(scope, send, error)

    async def _begin(self, receive: Any) -> tuple[Stream, asyncio.Task[None], int, Fields]:
        """The stream and the head of its response."""
        tried: set[str] = set()
        for attempt in range(_ATTEMPTS):
            stream = await self._open_stream(self._fields, self._request_body is None, tried)
            watcher = asyncio.create_task(_reset_on_disconnect(stream, receive))
            try:
                status, headers = await self._exchange(stream)
                return stream, watcher, status, headers
            except (TunnelError, TimeoutError) as error:
                watcher.cancel()
                stream.reset()
                again = self._request_body is None or isinstance(error, _NoConnection)
                if attempt == _ATTEMPTS - 1 or not again or isinstance(error, StreamReset | TimeoutError):
                    raise _broken_off(error) from error
        raise AssertionError

    async def _exchange(self, stream: Stream) -> tuple[int, Fields]:
        """Send the body, and wait for the head of the response, which may come before all of the body was sent."""
        async with asyncio.timeout(self._head_seconds):
            if self._request_body is None:
                return await _head(stream)
            sender = asyncio.create_task(stream.write(self._request_body, end=True))
            try:
                return await _head(stream)
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)


class UpgradedResponse(Response):
    """Passes on a request that changes its protocol, then the bytes of both directions, whatever they mean."""

    def __init__(
        self, open_stream: OpenStream, fields: Fields, protocol: str, *, explain: Explain = _unexplained
    ) -> None:
        super().__init__()
        self._open_stream = open_stream
        self._fields = fields
        self._explain = explain
        self._protocol = protocol

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            cycle = upgradable_cycle(scope)
            stream, status, headers = await self._begin(cycle)
        except PlatformError as error:
            await send_status(scope, send, error)
            return
        if status != 200:
            await _send_response(stream, status, headers, scope, send, self._explain)
            return
        try:
            fields = self._answer_fields(dict(scope["headers"]), headers)
            reader, writer = upgraded_streams(cycle, fields, lambda: None)
        except PlatformError as error:
            stream.reset()
            await send_status(scope, send, error)
            return
        await copy_with_socket(stream, reader, writer)

    async def _begin(self, cycle: Any) -> tuple[Stream, int, Fields]:
        """The stream and the head of its response. What may have begun in the cluster is not sent once more."""
        tried: set[str] = set()
        for _ in range(_ATTEMPTS):
            stream = await self._open_stream(self._fields, False, tried)
            cycle.add_disconnect_callback(stream.reset)
            try:
                status, headers = await _head(stream)
                return stream, status, headers
            except _NoConnection:
                stream.reset()
            except TunnelError as error:
                raise _broken_off(error) from error
        raise not_connected()

    def _answer_fields(self, request: dict[bytes, bytes], response: Fields) -> Fields:
        fields = [(b"upgrade", self._protocol.encode())]
        if self._protocol == "websocket":
            fields.append((b"sec-websocket-accept", accept_value(request[b"sec-websocket-key"])))
        passed = (b"sec-websocket-protocol", b"x-stream-protocol-version")
        return [*fields, *(each for each in response if each[0] in passed)]


class HeldResponse(Response):
    """Another response, within a context that may refuse it, until its caller may not continue: it breaks off then."""

    def __init__(self, response: Response, context: AbstractContextManager[None], watched: Watched) -> None:
        super().__init__()
        self._response = response
        self._context = context
        self._watched = watched

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._context)
            except PlatformError as error:
                await send_status(scope, send, error)
                return
            task = asyncio.create_task(self._response(scope, receive, send))
            stack.enter_context(self._watched(task.cancel))
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            if not task.cancelled():
                task.result()


class WebsocketResponse(Response):
    """Accepts a websocket of the tunnel. `serve` uses it until it ends; its second argument adds a shutdown callback."""

    def __init__(
        self,
        limits: TunnelLimits,
        fields: Fields,
        serve: Callable[[AcceptedWebsocket, Callable[[Callable[[], None]], None]], Awaitable[None]],
    ) -> None:
        super().__init__()
        self._limits = limits
        self._fields = fields
        self._serve = serve

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers, callbacks = dict(scope["headers"]), list[Callable[[], None]]()
        try:
            cycle = upgradable_cycle(scope)
            if offered_protocol(scope["headers"]) != "websocket":
                raise InvalidRequest("Open a websocket here.", code="websocket_required")
            socket = AcceptedWebsocket(self._limits)
            accept = (b"sec-websocket-accept", accept_value(headers[b"sec-websocket-key"]))
            fields = [(b"upgrade", b"websocket"), accept, *self._fields]
            if not cycle.upgrade(fields, socket, lambda: [each() for each in callbacks]):
                raise InvalidRequest("A request for a websocket has no body and nothing behind it.")
        except PlatformError as error:
            await send_status(scope, send, error)
            return
        await self._serve(socket, callbacks.append)


async def send_status(scope: Any, send: Any, error: PlatformError) -> None:
    """Send an error that OpenAI's clients and kubectl both understand."""
    content_type, body = status_content(error, scope["headers"])
    fields = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    fields += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


class _NoConnection(TunnelClosed):
    """Another replica has no connection any more, and has sent nothing to the cluster."""


async def _head(stream: Stream) -> tuple[int, Fields]:
    status, headers = await stream.response()
    if status == 503 and (b"llmariner-tunnel", b"no-connection") in headers:
        raise _NoConnection("the other replica has no connection any more")
    return status, list(headers)


async def _send_response(stream: Stream, status: int, headers: Fields, scope: Any, send: Any, explain: Explain) -> None:
    try:
        body = await _beginning(stream) if status == 403 else b""
        if body and (error := explain(body)) is not None:
            await send_status(scope, send, error)
            return
        kept = [each for each in headers if each[0] in _RESPONSE_FIELDS and _VALUE.fullmatch(each[1])]
        if status == 204:
            kept = [each for each in kept if each[0] != b"content-length"]
        await send({"type": "http.response.start", "status": status, "headers": kept})
        # The server sends a head with the first part of its body, which a watch may have in an hour.
        await send({"type": "http.response.body", "body": body, "more_body": True})
        while data := await stream.read():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except TunnelError:
        pass  # the response stays without its end, so the server breaks the connection off
    finally:
        stream.reset()


async def _beginning(stream: Stream) -> bytes:
    """The body of a refusal, or its first bytes."""
    found = b""
    while len(found) < _REFUSAL_BYTES and (data := await stream.read()):
        found += data
    return found


async def _reset_on_disconnect(stream: Stream, receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # a body of a GET means nothing, and goes no further
    stream.reset()


def _broken_off(error: TunnelError | TimeoutError) -> PlatformError:
    cause = "it took too long" if isinstance(error, TimeoutError) else error
    return Unavailable(
        f"The connection to the cluster broke off before it responded ({cause}). Send the request again.",
        code="tunnel_closed",
        headers={"retry-after": "1"},
    )
