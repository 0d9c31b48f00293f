"""Tells the Broker of what a request changed, once it is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from llmariner.platform.events.outbox import publish_request_count

__all__ = ["OutboxMiddleware"]

_log = logging.getLogger(__name__)


class Publisher(Protocol):
    """What carries events away."""

    def publish(self) -> int:
        """Send what is not published yet; never raises for a Broker that is away."""


class OutboxMiddleware:
    """ASGI middleware. Neither the caller nor the next request on its connection waits for the Broker.

    One publication at a time, in a thread of its own, and only after requests that left something to publish. What is
    not published when the process ends, or can't be, is the sweep's.
    """

    def __init__(self, app: Any, publisher: Callable[[], Publisher | None]) -> None:
        self._app = app
        self._publisher = publisher
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publisher")
        self._pending = False
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; what it changed is published later."""
        before = publish_request_count()
        await self._app(scope, receive, send)
        if publish_request_count() != before:
            self._pending = True
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._publish_pending())

    async def _publish_pending(self) -> None:
        while self._pending:
            self._pending = False
            await asyncio.get_running_loop().run_in_executor(self._executor, self._publish_once)

    def _publish_once(self) -> None:
        try:
            publisher = self._publisher()
            if publisher is not None:
                publisher.publish()
        except Exception:  # whatever it was, the sweep comes by
            _log.exception("events wait for the next sweep")
