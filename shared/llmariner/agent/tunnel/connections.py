"""The agent's connections to the control plane: two or more, at different replicas where there are several."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from llmariner.platform.tunnel import Http2Connection, TunnelLimits
from llmariner.platform.tunnel.http2 import Handler
from llmariner.platform.tunnel.websocket import open_websocket

__all__ = ["PATH", "TunnelConnections"]

_log = logging.getLogger(__name__)
PATH = "/v1/sessions/agent"
_DRAIN = "drain"
_WANTED = 2
# How often a connection is opened again because it went to the same replica as another one. There may be one replica only.
_REPLICA_ATTEMPTS = 4
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0
_MIN_RECONNECT, _DEFAULT_RECONNECT = 5.0, 1800.0
# A connection that is drained is closed by the control plane when its last stream has ended; by us after this time.
_DRAIN_SECONDS = 3600.0


@dataclass(eq=False)
class _Open:
    """A connection that is in use."""

    socket: ClientConnection
    connection: Http2Connection
    task: asyncio.Task[None]
    replica: str
    reconnect_at: float
    drained: asyncio.Event


class TunnelConnections:
    """Keeps connections open until it is canceled. `url`: the control plane's, `https://…`; `key`: gives the current key."""

    def __init__(
        self,
        url: str,
        key: Callable[[], str],
        handler: Handler,
        *,
        wanted: int = _WANTED,
        limits: TunnelLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._url = f"ws{url.rstrip('/').removeprefix('http')}{PATH}"
        self._key = key
        self._handler = handler
        self._wanted = wanted
        self._limits = limits or TunnelLimits()
        self._tls = tls
        self._open: dict[int, _Open] = {}
        self._drained: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep the connections open."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._wanted):
                group.create_task(self._keep_open(number))

    @property
    def is_open(self) -> bool:
        """Whether a request of the control plane can come through now. From any thread."""
        return bool(self._open)

    @property
    def replicas(self) -> set[str]:
        """The replicas that connections are open to."""
        return {each.replica for each in self._open.values()}

    async def _keep_open(self, number: int) -> None:
        delay = _FIRST_DELAY
        try:
            while True:
                try:
                    opened = await self._connect(number)
                except Exception as error:
                    _log.warning("no connection to the control plane: %s", _reason(error))
                    await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                    delay = min(2 * delay, _LONGEST_DELAY)
                    continue
                began = asyncio.get_running_loop().time()
                await self._use(number, opened)
                if asyncio.get_running_loop().time() - began > _LONGEST_DELAY:
                    delay = _FIRST_DELAY
                await asyncio.sleep(random.uniform(0, _FIRST_DELAY))
        finally:
            for task in (*self._drained, *(each.task for each in self._open.values())):
                task.cancel()

    async def _connect(self, number: int) -> _Open:
        """Open a connection, at a replica without one if there is one."""
        for attempt in range(1, _REPLICA_ATTEMPTS + 1):
            headers = {"authorization": f"Bearer {self._key()}"}
            socket = await open_websocket(self._url, headers, self._limits, tls=self._tls)
            fields = socket.response.headers if socket.response is not None else {}
            replica = str(fields.get("x-llmariner-replica", ""))
            others = {each.replica for key, each in self._open.items() if key != number}
            if replica not in others or attempt == _REPLICA_ATTEMPTS:
                return self._start(socket, replica, str(fields.get("x-llmariner-reconnect-seconds", "")))
            await socket.close()
        raise AssertionError

    def _start(self, socket: ClientConnection, replica: str, reconnect: str) -> _Open:
        drained = asyncio.Event()
        connection = Http2Connection(
            socket,
            handler=self._handler,
            limits=self._limits,
            on_text=lambda text: drained.set() if text == _DRAIN else None,
        )
        seconds = max(_MIN_RECONNECT, float(reconnect) if reconnect.isdecimal() else _DEFAULT_RECONNECT)
        at = asyncio.get_running_loop().time() + seconds * random.uniform(0.8, 1.0)
        return _Open(socket, connection, asyncio.create_task(connection.run()), replica, at, drained)

    async def _use(self, number: int, opened: _Open) -> None:
        """Use a connection until it ends, is to be replaced, or the control plane asks for another one."""
        self._open[number] = opened
        _log.info("connected to the control plane's replica %s", opened.replica)
        asked = asyncio.create_task(opened.drained.wait())
        rest = max(0.0, opened.reconnect_at - asyncio.get_running_loop().time())
        try:
            await asyncio.wait((asked, opened.task), timeout=rest, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        if not opened.task.done():
            task = asyncio.create_task(self._drain(number, opened))
            self._drained.add(task)
            task.add_done_callback(self._drained.discard)
        else:
            del self._open[number]

    async def _drain(self, number: int, opened: _Open) -> None:
        """Give up a connection once another one is open: its streams end by themselves."""
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self._open.get(number) is opened and not opened.task.done():  # noqa: ASYNC110 - a rare state
                    await asyncio.sleep(0.1)
                if not opened.task.done():
                    await opened.socket.send(_DRAIN)
                    await asyncio.wait([opened.task])
        except Exception as error:
            _log.info("a drained connection ended: %s", _reason(error))
        finally:
            if self._open.get(number) is opened:
                del self._open[number]
            opened.task.cancel()


def _reason(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        body = bytes(error.response.body or b"")[:300].decode(errors="replace")
        return f"it answers {error.response.status_code}: {body}"
    return f"{type(error).__name__}: {error}"
