"""Connections from this replica to others, each opened at its first use and kept while it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmariner.platform.tunnel import Http2Connection, TunnelLimits
from llmariner.platform.tunnel.websocket import open_websocket

__all__ = ["PEER_PATH", "Peers"]

PEER_PATH = "/v1/sessions/peers"
_IDLE_SECONDS = 60.0
# A replica that was killed has a lease for half a minute more, and its address may answer nothing.
_OPEN_SECONDS = 3.0


class Peers:
    """Connections to replicas by their addresses (`http://10.0.0.7:8080`). `token`: makes the token of a call."""

    def __init__(self, token: Callable[[], str], limits: TunnelLimits) -> None:
        self._token = token
        self._limits = limits
        self._open: dict[str, asyncio.Task[Http2Connection]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def connection(self, url: str) -> Http2Connection:
        """A connection to the replica at `url`. Raises OSError or TimeoutError if it does not answer."""
        task = self._open.get(url)
        if task is None or (task.done() and ((known := _result(task)) is None or known.is_closed)):
            task = self._open[url] = asyncio.create_task(self._connect(url))
        try:
            return await asyncio.shield(task)
        except Exception as error:
            if self._open.get(url) is task:
                del self._open[url]  # its address may never come back
            if isinstance(error, OSError | TimeoutError):
                raise
            raise OSError(f"{type(error).__name__}: {error}") from error  # websockets' own

    async def _connect(self, url: str) -> Http2Connection:
        address = f"ws{url.removeprefix('http')}{PEER_PATH}"
        # Replicas are neighbors: no proxy is between them.
        async with asyncio.timeout(_OPEN_SECONDS):
            fields = {"authorization": f"Bearer {self._token()}"}
            socket = await open_websocket(address, fields, self._limits, proxy=None)
        connection = Http2Connection(socket, limits=self._limits)
        for coroutine in (self._run(url, connection), self._close_when_unused(connection)):
            task = asyncio.create_task(coroutine)
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return connection

    async def _run(self, url: str, connection: Http2Connection) -> None:
        await connection.run()
        task = self._open.get(url)
        if task is not None and _result(task) is connection:
            del self._open[url]

    async def _close_when_unused(self, connection: Http2Connection) -> None:
        while not connection.is_closed:
            await asyncio.sleep(_IDLE_SECONDS)
            if not connection.streams:
                connection.close()


def _result(task: asyncio.Task[Http2Connection]) -> Http2Connection | None:
    """The connection of a finished attempt; None if it failed."""
    return None if not task.done() or task.cancelled() or task.exception() is not None else task.result()
