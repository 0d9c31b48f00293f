"""The task in which a connection runs its requests."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmariner.server.connection import Connection

__all__ = ["RequestTask"]


class RequestTask:
    """Runs a connection's current request, and the next ones in the same task: one for each would cost a twentieth of it.

    A request must find no trace of the one before, which may be another client's behind the same proxy: where that one was
    canceled, or changed a context variable, a new task runs the next.
    """

    __slots__ = ("_connection", "_loop", "_next", "task")

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._next: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None

    def run_current(self) -> None:
        """Run the request that became the connection's current one."""
        if self.task is None:
            self.task = self._loop.create_task(self._run())
        else:
            self.wake()

    def wake(self) -> None:
        """Let a task that waits for the next request look again: there is one, or the connection is lost."""
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def _run(self) -> None:
        connection, context = self._connection, copy_context()
        try:
            while (cycle := connection.current) is not None:
                # A request whose response is incomplete stays the current one until its connection is lost.
                if not await cycle.run() or connection.current is cycle or copy_context() != context:
                    break
                if connection.current is None and connection.accepts_requests:
                    cycle = None  # an idle connection keeps neither the last request nor its body
                    self._next = self._loop.create_future()
                    await self._next
        finally:
            self._next = self.task = None
        if connection.current is not None and connection.current is not cycle:
            context.run(self.run_current)
