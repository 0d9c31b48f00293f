"""The server: it listens, tracks connections, enforces their timeouts and shuts down gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable

from llmariner.server.connection import Connection
from llmariner.server.limits import ServerLimits
from llmariner.server.request_cycle import Application
from llmariner.server.sockets import limit_unacknowledged
from llmariner.server.upgraded_connection import UpgradedConnection

__all__ = ["Server", "http_date"]

_DEFAULT_LIMITS = ServerLimits()
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_log = logging.getLogger(__name__)


class Server:
    """Serves one ASGI application. `grace`: seconds that open requests have to finish after a shutdown begins."""

    def __init__(
        self,
        application: Application,
        *,
        host: str,
        port: int,
        grace: float = 30.0,
        limits: ServerLimits = _DEFAULT_LIMITS,
    ) -> None:
        self.application = application
        self.limits = limits
        self.connections: set[Connection | UpgradedConnection] = set()
        self.connections_per_network: Counter[str] = Counter()
        self.shutting_down = False
        self.date = b""
        self.now = time.monotonic()
        """Monotonic seconds as of the last tick; all timeouts are measured with it."""
        self._address = (host, port)
        self._grace = grace
        self._stop = asyncio.Event()

    async def serve(self, on_listening: Callable[[], None] = lambda: None) -> None:
        """Listen until shutdown, then let open requests finish within the grace period. OSError when the port is in use.

        `on_listening` is called once the port is bound.
        """
        loop = asyncio.get_running_loop()
        self._tick()
        listener = await loop.create_server(lambda: Connection(self, loop), *self._address, backlog=2048)
        limit_unacknowledged(listener, self.limits.write_seconds)
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(
                RuntimeError, ValueError
            ):  # outside the main thread, the embedder calls `shut_down`
                loop.add_signal_handler(number, self.shut_down)
        on_listening()
        timeout_task = asyncio.create_task(self._check_timeouts_periodically())
        try:
            await self._stop.wait()
        finally:
            listener.close()
            await self._drain()
            timeout_task.cancel()

    def shut_down(self) -> None:
        """Start a graceful shutdown. Idempotent; call it in the loop of `serve`."""
        self.shutting_down = True
        self._stop.set()

    async def _drain(self) -> None:
        deadline = time.monotonic() + self._grace
        for connection in list(self.connections):
            connection.close_if_idle()
        while self.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - polled only at shutdown
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)

    async def _check_timeouts_periodically(self) -> None:
        while True:
            await asyncio.sleep(self.limits.tick_seconds)
            self._tick()
            for connection in list(self.connections):
                try:
                    connection.check_timeouts()
                except Exception:  # the timeouts of all other connections depend on this loop
                    _log.exception("checking the timeouts of a connection failed: it is closed")
                    connection.abort()

    def _tick(self) -> None:
        self.now = time.monotonic()
        self.date = b"date: %b\r\n" % http_date(time.time()).encode()


def http_date(seconds: float) -> str:
    """The IMF-fixdate of a time in Unix seconds (RFC 9110 5.6.7). `email.utils` writes it too, but takes 0.4 MiB."""
    date = time.gmtime(seconds)
    day, month = _DAYS[date.tm_wday], _MONTHS[date.tm_mon - 1]
    clock = f"{date.tm_hour:02d}:{date.tm_min:02d}:{date.tm_sec:02d}"
    return f"{day}, {date.tm_mday:02d} {month} {date.tm_year:04d} {clock} GMT"
