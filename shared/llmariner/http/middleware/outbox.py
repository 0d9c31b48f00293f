"""Publishes the events that a request wrote to the outbox, after the response."""

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
    """Publishes the outbox."""

    def publish(self) -> int:
        """Publish pending events and return their number; an unreachable Broker does not raise."""


class OutboxMiddleware:
    """ASGI middleware. Neither the caller nor the next request on its connection waits for the Broker.

    Only requests that wrote an event cause a publication. Publications run one at a time in a thread of their own. The
    sweep publishes events that remain when the process ends or the Broker fails.
    """

    def __init__(self, app: Any, publisher: Callable[[], Publisher | None]) -> None:
        self._app = app
        self._publisher = publisher
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publisher")
        self._pending = False
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request, then start the publication of its events."""
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
        except Exception:  # the sweep retries, whatever the cause
            _log.exception("events wait for the next sweep")
