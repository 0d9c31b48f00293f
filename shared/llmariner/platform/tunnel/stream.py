"""One stream of a connection: a request and its response, or two directions of bytes after an extended CONNECT."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from llmariner.platform.tunnel.errors import StreamReset, TunnelError

if TYPE_CHECKING:
    from llmariner.platform.tunnel.http2 import Http2Connection

__all__ = ["Headers", "Stream"]

Headers = Sequence[tuple[bytes, bytes]]
# Two credits within this time are a sender that waits for its window.
_FAST_SECONDS = 1.0
# Shorter pieces are joined as they arrive: bounds are in bytes, and an object of two bytes takes sixty.
_PIECE_BYTES = 1024


class Stream:
    """A stream. Read and write it from one task each; `reset` ends it from any.

    `request`: the fields of the request, pseudo-fields first. `read`, `write` and `response` raise StreamReset when either
    side ended the stream early, TunnelClosed when the connection ended.
    """

    __slots__ = (
        "_buffered",
        "_chunks",
        "_connection",
        "_credited_at",
        "_head",
        "_remote_ended",
        "_uncredited",
        "_waiter",
        "_window_waiter",
        "error",
        "id",
        "local_ended",
        "request",
        "task",
        "window",
    )

    def __init__(
        self, connection: Http2Connection, stream_id: int, request: Headers, window: int, *, local_ended: bool = False
    ) -> None:
        self.id = stream_id
        self.local_ended = local_ended
        """Whether this side sent its last byte, or the other side asked it to send no more."""
        self.request = request
        self.window = window
        self.error: TunnelError | None = None
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._buffered = self._uncredited = 0
        self._credited_at = 0.0
        self._remote_ended = False
        self._head: tuple[int, Headers] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._window_waiter: asyncio.Future[None] | None = None

    # --- for the users of a stream ---

    @property
    def buffered(self) -> int:
        """Bytes that were received and not read."""
        return self._buffered

    @property
    def is_finished(self) -> bool:
        """Whether both sides ended it and everything was read, or one reset it."""
        return self.error is not None or (self.local_ended and self._remote_ended and not self._chunks)

    def field(self, name: bytes) -> bytes:
        """The first value of a field of the request; empty without one."""
        return next((value for key, value in self.request if key == name), b"")

    async def response(self) -> tuple[int, Headers]:
        """Status and fields of the response."""
        while self._head is None:
            self._raise_if_failed()
            await self._wait()
        return self._head

    def respond(self, status: int, headers: Headers, *, end: bool = False) -> None:
        """Send the head of the response; for the serving side."""
        self._raise_if_failed()
        self._connection.send_head(self, [(b":status", b"%d" % status), *headers], end=end)
        self.local_ended = end
        self._connection.forget_finished(self)

    async def read(self) -> bytes:
        """The bytes that have arrived, at least one; empty at the end."""
        while not self._chunks:
            self._raise_if_failed()
            if self._remote_ended:
                return b""
            await self._wait()
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered -= len(data)
        self._connection.on_read(self, len(data))
        return data

    async def write(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes in turns with other streams; returns when all of them are on their way. `end`: they are the last."""
        rest = memoryview(data)
        while rest:
            size = await self._connection.turn(self)
            self._connection.send_data(self, rest[:size])
            rest = rest[size:]
            if rest:
                await asyncio.sleep(0)  # a stream that waits for its turn gets it
        if end:
            self.end()

    def end(self) -> None:
        """End the direction to the other side; the other direction stays open. Idempotent."""
        if self.local_ended or self.error is not None:
            return
        self.local_ended = True
        self._connection.send_end(self)
        self._connection.forget_finished(self)

    def reset(self, code: int = ErrorCodes.CANCEL, reason: str = "the stream was canceled") -> None:
        """End both directions at once and drop what was not read. Idempotent; call it when a stream is no longer used."""
        if not self.is_finished:
            if not (self.local_ended and self._remote_ended):
                self._connection.send_reset(self, code)
            self.fail(StreamReset(code, reason))

    # --- for the connection ---

    def on_response(self, status: int, headers: Headers) -> None:
        """The head of the response arrived."""
        self._head = (status, headers)
        self._wake()

    def feed(self, data: bytes) -> None:
        """Bytes arrived."""
        if data:
            if self._chunks and len(self._chunks[-1]) < _PIECE_BYTES:
                self._chunks[-1] += data
            else:
                self._chunks.append(data)
            self._buffered += len(data)
            self._wake()

    def feed_end(self) -> None:
        """The other side sent its last byte."""
        self._remote_ended = True
        self._wake()

    def on_reset(self, code: int) -> None:
        """The other side reset the stream. After its whole response NO_ERROR means: send no more (RFC 9113, 8.1)."""
        if self._remote_ended and code == ErrorCodes.NO_ERROR:
            self.local_ended = True
            self._connection.forget_finished(self)
            self.on_window()
        else:
            self.fail(StreamReset(code, "the other side of the tunnel canceled the stream"))

    def on_closed(self, error: TunnelError) -> None:
        """The connection ended. What arrived whole before that can still be read."""
        if self._remote_ended and self.local_ended:
            return
        self.fail(error)

    def fail(self, error: TunnelError) -> None:
        """End the stream with an error. What arrived before it is dropped: a response that broke off is not whole."""
        if self.is_finished:
            return
        self.error = error
        self._chunks.clear()
        self._connection.on_failed(self)
        self._buffered = 0
        self._wake()
        self.on_window()
        if self.task is not None:
            self.task.cancel()

    def take_credit(self, size: int) -> int:
        """What to add to the window after `size` more bytes were read; 0: not yet."""
        self._uncredited += size
        if self._remote_ended or self._uncredited < self.window // 2:
            return 0
        credit, self._uncredited = self._uncredited, 0
        return credit

    def is_fast(self) -> bool:
        """Whether the sender used up its window in a short time and the reader keeps up. Call it once per credit."""
        now = monotonic()
        before, self._credited_at = self._credited_at, now
        return now - before < _FAST_SECONDS and not self._buffered

    async def window_opened(self) -> None:
        """Wait until the other side may have opened the window for more bytes."""
        self._window_waiter = asyncio.get_running_loop().create_future()
        try:
            await self._window_waiter
        finally:
            self._window_waiter = None

    def on_window(self) -> None:
        """The window for sending was opened."""
        if self._window_waiter is not None and not self._window_waiter.done():
            self._window_waiter.set_result(None)

    def _raise_if_failed(self) -> None:
        if self.error is not None:
            raise self.error

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
