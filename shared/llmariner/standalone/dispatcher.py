"""Delivers events from the outbox to the consumers in `eventing/`, as a Broker does on a cluster.

The HTTP binding, the timeout of a delivery and the meaning of a status are a Broker's: 2xx is accepted, 4xx except 404,
408, 409 and 429 is final, anything else is retried.
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
"""Concurrent deliveries per consumer and project: a project's downloads of hours must not block other projects."""
_DEFAULT_TIMEOUT_SECONDS = 60.0
_DOWNLOAD_TIMEOUT_SECONDS = 86_400.0
"""For model weights, which standalone mode downloads in the delivery, and a cluster in pieces or when the engine starts."""
Consumers = dict[str, Callable[[Any, Any, Any], Awaitable[None]]]


def subscriptions(eventing: Path) -> list[Subscription]:
    """The event type of each consumer, from its trigger.yaml. Consumers of Kubernetes' own events are left out."""
    found = []
    for file in sorted(eventing.glob("*/trigger.yaml")):
        spec = yaml.safe_load(file.read_text())["spec"]
        if "filter" in spec:
            found.append(Subscription(file.parent.name, spec["filter"]["attributes"]["type"]))
    return found


def delivery_timeouts(eventing: Path) -> dict[str, float]:
    """The timeout of a delivery in seconds by consumer, from its trigger.yaml; longer for downloads."""
    found = {}
    for file in sorted(eventing.glob("*/trigger.yaml")):
        annotations = yaml.safe_load(file.read_text())["metadata"].get("annotations", {})
        found[file.parent.name] = float(annotations.get("llmariner.ai/timeout-seconds", _DEFAULT_TIMEOUT_SECONDS))
    return found | dict.fromkeys(("model_loader", "model_load_continuation"), _DOWNLOAD_TIMEOUT_SECONDS)


class Dispatcher:
    """Delivers until it is closed. `consumers`: ASGI applications by folder name; `timeouts`: see `delivery_timeouts`.

    A delivery that times out has failed. A thread of the consumer may continue, so as on a cluster a consumer must accept
    a redelivery meanwhile.
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
        """Deliver what is due, forever."""
        while True:
            try:
                await self.start_due()
            except PlatformError as error:
                _log.warning("events wait: %s", error.message)
            except Exception:  # no error may stop the loop
                _log.exception("events wait")
            await asyncio.sleep(_POLL_SECONDS)

    async def start_due(self) -> None:
        """Start all due deliveries that are not running, at most `_MAX_PER_PROJECT` per consumer and project."""
        while await asyncio.to_thread(self._deliveries.fan_out):
            pass
        for delivery in await asyncio.to_thread(self._deliveries.due):
            key = (delivery.sequence, delivery.consumer)
            consumer_and_project = (delivery.consumer, delivery.project_id)
            if key not in self._running and self._running_by_project[consumer_and_project] < _MAX_PER_PROJECT:
                self._running_by_project[consumer_and_project] += 1
                self._running[key] = asyncio.create_task(self._deliver(delivery))

    async def drain(self) -> None:
        """Wait for the running deliveries."""
        await asyncio.gather(*self._running.values())

    async def close(self) -> None:
        """Cancel the running deliveries; they are due again at the next start."""
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
            self._running_by_project += Counter()  # drops zero counts

    async def _answer(self, delivery: Delivery) -> tuple[int, bytes]:
        limit = self._timeouts.get(delivery.consumer, _DEFAULT_TIMEOUT_SECONDS)
        try:
            async with asyncio.timeout(limit):
                return await self._post(delivery)
        except TimeoutError:
            return 504, f"It was not done within {limit:g} s.".encode()

    async def _post(self, delivery: Delivery) -> tuple[int, bytes]:
        """POST the event in the CloudEvents HTTP binding to an application in this process."""
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
