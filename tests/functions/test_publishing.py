"""A function with a Broker tells it of each change, after its answer; one that only reads tells nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from llmariner.http.publishing import Publishing


class Counting:
    """Counts how often it was asked to publish."""

    def __init__(self) -> None:
        self.times = 0

    def publish(self) -> int:
        self.times += 1
        return 0


def test_only_requests_that_may_change_something_publish_and_after_the_answer() -> None:
    publisher = Counting()
    order: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        order.append(f"{scope['method']} answered with {publisher.times} published")

    async def run() -> None:
        for method in ("GET", "POST", "HEAD", "DELETE"):
            await Publishing(app, lambda: publisher)({"type": "http", "method": method}, None, None)

    asyncio.run(run())
    assert publisher.times == 2
    assert order == [
        "GET answered with 0 published",
        "POST answered with 0 published",
        "HEAD answered with 1 published",
        "DELETE answered with 1 published",
    ]
