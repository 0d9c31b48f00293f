"""An HTTP/2 connection (RFC 9113) in the binary messages of a websocket: streams, their flow control and their turns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import NoAvailableStreamIDError, ProtocolError, StreamClosedError, TooManyStreamsError
from h2.settings import SettingCodes

from llmariner.platform.tunnel.errors import HeadTooLong, StreamReset, TooManyStreams, TunnelClosed
from llmariner.platform.tunnel.http2_protocol import Http2Protocol
from llmariner.platform.tunnel.limits import TunnelLimits
from llmariner.platform.tunnel.stream import Headers, Stream

__all__ = ["Http2Connection", "Socket"]

_log = logging.getLogger(__name__)
# The window of the connection is given back as bytes arrive: a stream that nobody reads holds up no other one.
_CONNECTION_WINDOW = 16 * 1024 * 1024
_CREDIT_BYTES = 4 * 1024 * 1024
# What a field counts beside its name and value (RFC 9113, 6.5.2).
_FIELD_BYTES = 32
_CLOSE_SECONDS = 1.0
# Of a final response. A proxy waits behind any other one for a response, which it would find in the body.
_STATUS = re.compile(rb"[2-5][0-9]{2}")
_DEFAULT_LIMITS = TunnelLimits()
Handler = Callable[[Stream], Awaitable[None]]


class Socket(Protocol):
    """What a connection needs of a websocket (`websockets.asyncio.connection.Connection` has it)."""

    async def send(self, message: bytes | str) -> None:
        """Send a message; waits while the other side reads too slowly."""

    async def recv(self) -> bytes | str:
        """The next message. Raises when the websocket is closed."""

    async def close(self) -> None:
        """Close the websocket; waits for the other side."""

    @property
    def transport(self) -> asyncio.Transport:
        """What the websocket writes to."""


class Http2Connection:
    """One connection, from `run`'s start to its end.

    `handler` serves the other side's requests, each in a task that is canceled when its stream ends early; None: this side
    sends them (`request`). `on_text` gets the text messages of the websocket, which carry no bytes of HTTP/2.
    """

    def __init__(
        self,
        socket: Socket,
        *,
        handler: Handler | None = None,
        limits: TunnelLimits = _DEFAULT_LIMITS,
        on_text: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.streams: dict[int, Stream] = {}
        self.limits = limits
        self.buffered_bytes = 0
        self._socket = socket
        self._handler = handler
        self._on_text = on_text
        self._closed: TunnelClosed | None = None
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = self._uncredited = self._grown = 0
        self._has_outgoing = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._windows_opened = False
        self._http2 = Http2Protocol(
            client=handler is None,
            settings=self._settings(),
            frame_bytes=limits.frame_bytes,
            header_bytes=limits.header_bytes,
            window=_CONNECTION_WINDOW,
        )
        self._collect()

    def _settings(self) -> dict[SettingCodes, int]:
        settings = {
            SettingCodes.INITIAL_WINDOW_SIZE: self.limits.stream_window,
            SettingCodes.MAX_FRAME_SIZE: self.limits.frame_bytes,
            SettingCodes.MAX_HEADER_LIST_SIZE: self.limits.header_bytes,
            SettingCodes.MAX_CONCURRENT_STREAMS: self.limits.streams,
        }
        extra = SettingCodes.ENABLE_PUSH if self._handler is None else SettingCodes.ENABLE_CONNECT_PROTOCOL
        return {**settings, extra: 0 if self._handler is None else 1}

    # --- for the owner of the connection ---

    async def run(self) -> None:
        """Read and write until the websocket ends or either side violates the protocol. Every stream fails then."""
        flusher = asyncio.create_task(self._flush())
        reader = self._running = asyncio.create_task(self._read())
        try:
            await asyncio.wait((flusher, reader), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (flusher, reader):
                each.cancel()
            await asyncio.gather(flusher, reader, return_exceptions=True)
            self._fail("the connection of the tunnel ended")
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._close_socket()

    async def _close_socket(self) -> None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._socket.close()
        self._socket.transport.abort()

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self._closed is not None

    def request(self, headers: Headers, *, end: bool) -> Stream:
        """Send a request's head (pseudo-fields first). `end`: it has no body.

        Raises HeadTooLong, TooManyStreams, TunnelClosed.
        """
        if self._closed is not None:
            raise self._closed
        self._check_head(headers)
        try:
            number = self._http2.get_next_available_stream_id()
            self._http2.send_headers(number, headers, end_stream=end)
        except TooManyStreamsError as error:
            raise TooManyStreams(str(error)) from error
        except NoAvailableStreamIDError as error:
            raise TunnelClosed("this connection has no stream numbers left") from error
        stream = self.streams[number] = Stream(self, number, headers, self.limits.stream_window, local_ended=end)
        self._collect()
        return stream

    def close(self) -> None:
        """End the connection, and every stream of it. Idempotent."""
        if self._running is not None:
            self._running.cancel()

    async def idle(self) -> None:
        """Wait until no stream is open, or the connection has ended."""
        if self.streams and self._closed is None:
            self._idle.append(asyncio.get_running_loop().create_future())
            await self._idle[-1]

    def _check_head(self, headers: Headers) -> None:
        if sum(len(name) + len(value) + _FIELD_BYTES for name, value in headers) > self.limits.header_bytes:
            raise HeadTooLong(f"the head has more than {self.limits.header_bytes} bytes")

    # --- for streams ---

    async def turn(self, stream: Stream) -> int:
        """Wait for the stream's turn to send; returns how many bytes it may send at once."""
        while True:
            if stream.error is not None:
                self._wake_writers(1)
                raise stream.error
            if stream.local_ended:
                raise StreamReset(ErrorCodes.NO_ERROR, "the other side of the tunnel wants no more of the request")
            size = min(self._http2.local_flow_control_window(stream.id), self._http2.max_outbound_frame_size)
            if size <= 0:
                await stream.window_opened()
            elif self._outgoing_bytes >= self.limits.unsent_bytes:
                waiter = asyncio.get_running_loop().create_future()
                self._waiting.append(waiter)
                await waiter
            else:
                return min(size, self.limits.frame_bytes)

    def send_head(self, stream: Stream, headers: Headers, *, end: bool) -> None:
        """Send the head of a response. Raises HeadTooLong."""
        self._check_head(headers)
        self._http2.send_headers(stream.id, headers, end_stream=end)
        self._collect()

    def send_data(self, stream: Stream, data: memoryview) -> None:
        """Send bytes that `turn` allowed."""
        self._http2.send_frame(stream.id, data)
        self._collect()

    def send_end(self, stream: Stream) -> None:
        """End this side's direction of a stream."""
        self._http2.end_stream(stream.id)
        self._collect()

    def send_reset(self, stream: Stream, code: int) -> None:
        """Reset a stream."""
        if self._closed is None:
            # The end of the stream may have arrived in the slice whose events are being handled.
            with contextlib.suppress(StreamClosedError):
                self._http2.reset_stream(stream.id, code)
            self._collect()

    def on_read(self, stream: Stream, size: int) -> None:
        """A reader took bytes: open the stream's window again, wider for one that keeps up with a fast sender."""
        self.buffered_bytes -= size
        self.forget_finished(stream)
        credit = stream.take_credit(size)
        if not credit or self._closed is not None or stream.error is not None:
            return
        growth = min(stream.window, self.limits.largest_window - stream.window, self.limits.grown_bytes - self._grown)
        if growth > 0 and stream.is_fast():
            stream.window += growth
            self._grown += growth
            credit += growth
        self._http2.increment_flow_control_window(credit, stream.id)
        self._collect()

    def on_failed(self, stream: Stream) -> None:
        """A stream failed: give back what it held."""
        self._forget(stream)

    def forget_finished(self, stream: Stream) -> None:
        """Forget a stream that both sides ended, and whose reader took everything."""
        if stream.is_finished:
            self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is None:
            return
        self._grown -= stream.window - self.limits.stream_window
        if stream.error is not None:
            self.buffered_bytes -= stream.buffered
        if not self.streams:
            self._release_idle()

    def _release_idle(self) -> None:
        idle, self._idle = self._idle, []
        for each in idle:
            if not each.done():
                each.set_result(None)

    # --- writing ---

    def _collect(self) -> None:
        """Take what h2 wants to send."""
        if pieces := self._http2.take_outgoing():
            self._outgoing += pieces
            self._outgoing_bytes += sum(map(len, pieces))
            self._has_outgoing.set()

    async def _flush(self) -> None:
        while True:
            await self._has_outgoing.wait()
            self._has_outgoing.clear()
            pieces, self._outgoing = self._outgoing, []
            self._outgoing_bytes = 0
            self._wake_writers(max(1, self.limits.unsent_bytes // self.limits.frame_bytes))
            try:
                async with asyncio.timeout(self.limits.write_seconds):
                    for message in self._messages(pieces):
                        await self._socket.send(message)
            except Exception as error:
                _log.info("writing to a tunnel ended: %s: %s", type(error).__name__, error)
                return

    def _messages(self, pieces: list[bytes]) -> Iterator[bytes]:
        """Messages of whole frames, so that the other side need not put parts together."""
        message, size = list[bytes](), 0
        for piece in pieces:
            message.append(piece)
            size += len(piece)
            if size >= self.limits.message_bytes:
                yield b"".join(message)
                message, size = [], 0
        if message:
            yield b"".join(message)

    def _wake_writers(self, count: int) -> None:
        """Let the writers that waited longest continue."""
        while self._waiting and count:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    # --- reading ---

    async def _read(self) -> None:
        try:
            while True:
                message = await self._socket.recv()
                if isinstance(message, str):
                    self._on_text(message)
                else:
                    await self._feed(message)
        except ProtocolError as error:
            _log.warning("a tunnel's other side violated HTTP/2: %s", error)
        except Exception as error:
            _log.info("reading a tunnel ended: %s: %s", type(error).__name__, error)

    async def _feed(self, message: bytes) -> None:
        for number, found in enumerate(self._http2.receive(message)):
            if number:
                await asyncio.sleep(0)
            for event in found:
                self._on_event(event)
            self._wake_senders()
            self._collect()
            if self._outgoing_bytes > self.limits.unsent_bytes + self.limits.unsent_control_bytes:
                raise ProtocolError("the other side sends frames and does not read the answers")

    def _on_event(self, event: Any) -> None:
        if isinstance(event, events.DataReceived):
            self._on_data(event)
        elif isinstance(event, events.RequestReceived):
            self._on_request(event)
        elif isinstance(event, events.RemoteSettingsChanged) or (
            isinstance(event, events.WindowUpdated) and not event.stream_id
        ):
            self._windows_opened = True
        elif isinstance(event, events.WindowUpdated):
            if (stream := self.streams.get(event.stream_id or 0)) is not None:
                stream.on_window()
        elif isinstance(event, events.ConnectionTerminated):
            raise ProtocolError(f"the other side ended the connection: {event.error_code}")
        elif (stream := self.streams.get(getattr(event, "stream_id", None) or 0)) is not None:
            self._on_stream_event(stream, event)

    def _on_stream_event(self, stream: Stream, event: Any) -> None:
        if isinstance(event, events.ResponseReceived):
            fields = [(bytes(name), bytes(value)) for name, value in event.headers or []]
            if _STATUS.fullmatch(fields[0][1]):
                stream.on_response(int(fields[0][1]), fields[1:])
            else:
                stream.reset(ErrorCodes.PROTOCOL_ERROR, "the other side of the tunnel sent no status of a response")
        elif isinstance(event, events.StreamEnded):
            stream.feed_end()
            self.forget_finished(stream)
        elif isinstance(event, events.StreamReset):
            stream.on_reset(int(event.error_code or 0))

    def _on_data(self, event: Any) -> None:
        self._uncredited += event.flow_controlled_length
        if self._uncredited >= _CREDIT_BYTES:
            self._http2.increment_flow_control_window(self._uncredited)
            self._uncredited = 0
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return  # this side reset it
        stream.feed(event.data)
        self.buffered_bytes += len(event.data)
        if padding := event.flow_controlled_length - len(event.data):
            self._http2.increment_flow_control_window(padding, stream.id)
        if self.buffered_bytes > self.limits.buffered_bytes:
            slowest = max(self.streams.values(), key=lambda each: each.buffered)
            slowest.reset(ErrorCodes.ENHANCE_YOUR_CALM, "too much was received that nobody read")

    def _on_request(self, event: Any) -> None:
        fields = [(bytes(name), bytes(value)) for name, value in event.headers or []]
        stream = Stream(self, event.stream_id, fields, self.limits.stream_window)
        self.streams[stream.id] = stream
        task = stream.task = asyncio.create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: Stream) -> None:
        assert self._handler is not None
        try:
            await self._handler(stream)
        except Exception:
            if stream.error is None:
                _log.exception("serving a stream of the tunnel failed")
        finally:
            stream.task = None
            code = ErrorCodes.NO_ERROR if stream.local_ended else ErrorCodes.INTERNAL_ERROR
            stream.reset(code, "the request was not served to its end")

    def _wake_senders(self) -> None:
        """After a change of all windows: once for all changes that arrived together, since each stream is visited."""
        if self._windows_opened:
            self._windows_opened = False
            for stream in self.streams.values():
                stream.on_window()

    def _fail(self, reason: str) -> None:
        self._closed = TunnelClosed(reason)
        for stream in list(self.streams.values()):
            stream.on_closed(self._closed)
        self._wake_writers(len(self._waiting))
        self._release_idle()
