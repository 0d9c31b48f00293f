"""Listens, keeps the connections and their limits of time, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate

from llmariner.server.connection import Connection
from llmariner.server.limits import ServerLimits
from llmariner.server.request_cycle import Application

__all__ = ["Server"]

_DEFAULT_LIMITS = ServerLimits()
_log = logging.getLogger(__name__)


class Server:
    """Serves one application until told to end."""

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
        self.connections: set[Connection] = set()
        self.connections_per_network: Counter[str] = Counter()
        self.shutting_down = False
        self.date = b""
        self.now = time.monotonic()
        """Monotonic seconds, as of the last tick: what limits of time are measured by."""
        self._address = (host, port)
        self._grace = grace
        self._stop = asyncio.Event()

    async def serve(self, on_listening: Callable[[], None] = lambda: None) -> None:
        """Listen until SIGTERM or SIGINT; then let what is under way finish, up to the grace. OSError: port taken.

        `listening` is called once the port is ours.
        """
        loop = asyncio.get_running_loop()
        self._tick()
        listener = await loop.create_server(lambda: Connection(self, loop), *self._address, backlog=2048)
        _limit_unacknowledged(listener, self.limits.write_seconds)
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: somebody else ends us
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
        """Begin to end."""
        self.shutting_down = True
        self._stop.set()

    async def _drain(self) -> None:
        deadline = time.monotonic() + self._grace
        for connection in list(self.connections):
            connection.close_if_idle()
        while self.connections and time.monotonic() < deadline:  # noqa: ASYNC110 - the end of the process, not a hot path
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
                except Exception:  # all others would be without limits from now on
                    _log.exception("the limits of a connection can't be looked at: it is closed")
                    connection.abort()

    def _tick(self) -> None:
        self.now = time.monotonic()
        self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"


def _limit_unacknowledged(listener: asyncio.Server, seconds: float) -> None:
    """What the kernel sent and nobody acknowledged, or may not send to a full reader, ends the connection after that long.

    So that it has something to send while an answer is awaited, it probes: a caller whose machine or network is gone says
    no goodbye. Connections inherit all of it from the socket that they were accepted on. Linux only.
    """
    probe = max(1, int(seconds / 4))
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        for each in listener.sockets:
            if each.family in (socket.AF_INET, socket.AF_INET6):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
                each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe)
