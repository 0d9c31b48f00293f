"""The client: a pool of idle connections per origin, and the timeouts of those in use."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from llmariner.http_client.connection import READ_TIMEOUT_SECONDS, Connection
from llmariner.http_client.response import ConnectionFailed, Headers, Response, ResponseTimeout, Tunnel

__all__ = ["Client"]

_MAX_IDLE = 128
_CONNECT_SECONDS = 5.0
_UNIX = "unix:"
_CLUSTER_DOMAIN = ".svc.cluster.local"
_SWEEP_SECONDS = 0.5
_MAX_CACHED_PATH: Final = 128
_MAX_CACHED_HEADS: Final = 256

_head_starts: Final[dict[str, bytes]] = {}


class Client:
    """A pool of connections to any number of origins. One per event loop.

    `write_timeout`: seconds that a sink may take to accept a chunk (see `Response.pipe`). `tunnel`: the way to the engines
    of other clusters; None: none of their origins is known.
    """

    def __init__(self, *, write_timeout: float = math.inf, tunnel: Tunnel | None = None) -> None:
        self.write_timeout = write_timeout
        self._tunnel = tunnel
        self.busy: set[Connection] = set()
        self._idle: dict[str, deque[Connection]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def request(
        self,
        origin: str,
        method: str,
        path: str,
        *,
        headers: Headers = (),
        body: bytes = b"",
        read_timeout: float = READ_TIMEOUT_SECONDS,
        idempotent: bool = False,
    ) -> Response:
        """Send a request to an origin, and wait for the head of the response.

        Origins are `http://host:port`, `unix:path` (a socket), and `tunnel:…` (an engine of another cluster).

        Raises ConnectionFailed. The request is sent once; only a GET, or one that is marked `idempotent`, is sent again
        when an idle connection turns out to be closed. `read_timeout`: seconds that the server may send nothing, before
        its head (ResponseTimeout) or between two parts of its body (ResponseFailed).
        """
        if origin[0] == "t":
            if self._tunnel is None:
                raise ConnectionFailed(f"{origin}: this process knows no way to engines of other clusters")
            return await self._tunnel.request(
                self, origin, method, path, headers=headers, body=body, read_timeout=read_timeout, idempotent=idempotent
            )
        head = _request_head(origin, method, path, headers, len(body))
        connection = self._take_idle(origin)
        if connection is not None:
            try:
                return await connection.send(head, body, read_timeout)
            except ResponseTimeout:
                raise
            except ConnectionFailed:
                if method != "GET" and not idempotent:
                    raise
        connection = await self._connect(origin)
        return await connection.send(head, body, read_timeout)

    def close(self) -> None:
        """Close the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None

    def return_to_pool(self, connection: Connection) -> None:
        """Keep an idle connection for the next request to its origin."""
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = deque()
        if len(idle) < _MAX_IDLE:
            idle.append(connection)
        else:
            connection.abort()

    def track(self, connection: Connection) -> None:
        """Check the timeouts of a connection until it leaves `busy`."""
        self.busy.add(connection)
        if self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Check the timeouts of busy connections, and close those that were idle for too long."""
        now = monotonic()
        for connection in list(self.busy):
            connection.check_timeouts(now)
        for origin, idle in list(self._idle.items()):
            while idle and not idle[0].is_usable(now):
                idle.popleft().abort()
            if not idle:
                del self._idle[origin]
        more = bool(self.busy or self._idle)
        loop = asyncio.get_running_loop()
        self._sweep_timer = loop.call_later(_SWEEP_SECONDS, self._sweep) if more else None

    def _take_idle(self, origin: str) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable(monotonic()):
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: str) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                if origin.startswith(_UNIX):
                    path = origin.removeprefix(_UNIX)
                    _, connection = await loop.create_unix_connection(lambda: Connection(self, origin), path)
                else:
                    parts = urlsplit(origin)
                    _, connection = await loop.create_connection(
                        lambda: Connection(self, origin), _absolute(parts.hostname or ""), parts.port or 80
                    )
        except (OSError, TimeoutError) as error:
            raise ConnectionFailed(f"{origin}: {str(error) or 'timed out'}") from error
        return connection


def _absolute(host: str) -> str:
    """The full name of a Service as an absolute one: a pod's resolver would try each of its search domains first.

    On a busy node these four lookups in place of one take longer than a connection may.
    """
    return f"{host}." if host.endswith(_CLUSTER_DOMAIN) else host


def _request_head(origin: str, method: str, path: str, headers: Headers, length: int) -> bytes:
    head = b"%b%d\r\n" % (_head_start(origin, method, path), length)
    for name, value in headers:
        head += b"%b: %b\r\n" % (name, value)
    return head + b"\r\n"


def _head_start(origin: str, method: str, path: str) -> bytes:
    """A head up to the number of its content-length."""
    target = f"{method} {path} {origin}"
    start = _head_starts.get(target)
    if start is None:
        host = "localhost" if origin.startswith(_UNIX) else origin[7:]
        start = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: ".encode("latin-1")
        # Most requests go to few origins and paths.
        if len(path) <= _MAX_CACHED_PATH:
            if len(_head_starts) >= _MAX_CACHED_HEADS:
                _head_starts.clear()
            _head_starts[target] = start
    return start
