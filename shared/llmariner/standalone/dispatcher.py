"""Carries events from the outbox to the consumers in `eventing/`, as a Broker does on a cluster.

Same HTTP binding, same reading of answers: 2xx took it, 4xx (but 404, 408, 409, 429) never will, anything else again. Same
limit of time for one delivery, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from llmariner.errors import PlatformError
from llmariner.platform.events.cloudevents import to_http
from llmariner.platform.events.deliveries import Deliveries, Delivery, Subscription

__all__ = ["Dispatcher", "delivery_timeouts", "subscriptions"]

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.25
_RETRYABLE_STATUSES = frozenset({404, 408, 409, 429})
_MAX_PER_PROJECT = 2
"""Deliveries under way to one consumer: a project's downloads, which may take hours, are to keep no other waiting."""
_DEFAULT_TIMEOUT_SECONDS = 60.0
_DOWNLOAD_TIMEOUT_SECONDS = 86_400.0
"""For the weights of a model: one machine downloads them in the delivery, a cluster when their engine starts."""
Consumers = dict[str, Callable[[Any, Any, Any], Awaitable[None]]]


def subscriptions(eventing: Path) -> list[Subscription]:
    """Who takes which of our types, from each consumer's trigger.yaml. Kubernetes' changes are events of a cluster only."""
    found = []
    for file in sorted(eventing.glob("*/trigger.yaml")):
        spec = yaml.safe_load(file.read_text())["spec"]
        if "filter" in spec:
            found.append(Subscription(file.parent.name, spec["filter"]["attributes"]["type"]))
    return found


def delivery_timeouts(eventing: Path) -> dict[str, float]:
    """How many seconds a delivery may take, by consumer: what its trigger.yaml says, but for what downloads."""
    found = {}
    for file in sorted(eventing.glob("*/trigger.yaml")):
        annotations = yaml.safe_load(file.read_text())["metadata"].get("annotations", {})
        found[file.parent.name] = float(annotations.get("llmariner.ai/timeout-seconds", _DEFAULT_TIMEOUT_SECONDS))
    return found | {"model_loader": _DOWNLOAD_TIMEOUT_SECONDS}


class Dispatcher:
    """Delivers until it is closed. `consumers`: each one's application, by folder name; `timeouts`: see `delivery_timeouts`.

    A delivery that is not over in time is one that failed. A thread that still works on it goes on: as on a cluster,
    consumers are written to be called again meanwhile.
    """

    def __init__(
        self, deliveries: Deliveries, consumers: Consumers, timeouts: Mapping[str, float] | None = None
    ) -> None:
        self._deliveries = deliveries
        self._consumers = consumers
        self._timeouts = timeouts or {}
        self._running: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._running_by_project: Counter[tuple[str, str | None]] = Counter()

    async def run(self) -> None:
        """Deliver what is due, again and again."""
        while True:
            try:
                await self.start_due()
            except PlatformError as error:
                _log.warning("events wait: %s", error.message)
            except Exception:  # whatever it was, the next round must come
                _log.exception("events wait")
            await asyncio.sleep(_POLL_SECONDS)

    async def start_due(self) -> None:
        """Start every delivery that is due and not under way, of each project a few at a time."""
        while await asyncio.to_thread(self._deliveries.fan_out):
            pass
        for delivery in await asyncio.to_thread(self._deliveries.due):
            key = (delivery.sequence, delivery.consumer)
            consumer_and_project = (delivery.consumer, delivery.project_id)
            if key not in self._running and self._running_by_project[consumer_and_project] < _MAX_PER_PROJECT:
                self._running_by_project[consumer_and_project] += 1
                self._running[key] = asyncio.create_task(self._deliver(delivery))

    async def drain(self) -> None:
        """Wait for the deliveries under way."""
        await asyncio.gather(*self._running.values())

    async def close(self) -> None:
        """Break off the deliveries under way; they are due again at the next start."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            status, answer = await self._answer(delivery)
            if 200 <= status < 300:
                await asyncio.to_thread(self._deliveries.mark_delivered, delivery)
            else:
                final = 400 <= status < 500 and status not in _RETRYABLE_STATUSES
                reason = f"{status}: {answer.decode(errors='replace')[:1000]}"
                await asyncio.to_thread(self._deliveries.mark_failed, delivery, reason, final=final)
        finally:
            self._running.pop((delivery.sequence, delivery.consumer), None)
            self._running_by_project.subtract([(delivery.consumer, delivery.project_id)])
            self._running_by_project += Counter()  # drops those that are nought

    async def _answer(self, delivery: Delivery) -> tuple[int, bytes]:
        limit = self._timeouts.get(delivery.consumer, _DEFAULT_TIMEOUT_SECONDS)
        try:
            async with asyncio.timeout(limit):
                return await self._post(delivery)
        except TimeoutError:
            return 504, f"It was not done within {limit:g} s.".encode()

    async def _post(self, delivery: Delivery) -> tuple[int, bytes]:
        """One POST of the CloudEvents HTTP binding, to an application in this process."""
        consumer = self._consumers.get(delivery.consumer)
        if consumer is None:
            return 410, b"No consumer of that name is installed any more."
        headers, body = to_http(delivery.event)
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        answer: dict[str, Any] = {"status": 500, "body": b""}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
            else:
                answer["body"] += message.get("body", b"")

        await consumer(scope, receive, send)
        return int(answer["status"]), bytes(answer["body"])
