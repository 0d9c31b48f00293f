"""Tells the Broker of what a request changed, once its answer is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Publishing"]

_READING = ("GET", "HEAD")


class Publisher(Protocol):
    """What carries events away."""

    def publish(self) -> int:
        """Send what is not published yet; never raises for a Broker that is away."""


class Publishing:
    """ASGI middleware. The caller does not wait for the Broker, and what it does not take is swept later."""

    def __init__(self, app: Any, publisher: Callable[[], Publisher | None]) -> None:
        self._app = app
        self._publisher = publisher

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, then publish."""
        await self._app(scope, receive, send)
        if scope["type"] == "http" and scope["method"] not in _READING:
            await asyncio.to_thread(self._publish)

    def _publish(self) -> None:
        publisher = self._publisher()
        if publisher is not None:
            publisher.publish()
