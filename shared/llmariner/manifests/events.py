"""Broker, Triggers and the clock that wakes sweeps: what carries events to the functions that act on them."""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.manifests.declarations import Consumer, DeclarationError
from llmariner.manifests.installation import BROKER, LABELS, NAMESPACE, Object

__all__ = ["TICK", "broker", "clock", "trigger"]

TICK = "ai.llmariner.platform.tick.v1"
"""The event that says that time passed (eventing/events.md)."""

PING = "dev.knative.sources.ping"
"""The type of every event of a PingSource, which cannot send another."""


def broker() -> Object:
    """One Broker, of the Kafka class, since the in-memory one forgets its events at a restart.

    It repeats what a function refused with 5xx, 404, 408, 409 or 429, ever more slowly; other 4xx are final.
    """
    return {
        "apiVersion": "eventing.knative.dev/v1",
        "kind": "Broker",
        "metadata": {
            "name": BROKER,
            "namespace": NAMESPACE,
            "labels": LABELS,
            "annotations": {"eventing.knative.dev/broker.class": "Kafka"},
        },
        "spec": {
            "config": {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": "kafka-broker-config",
                "namespace": "knative-eventing",
            },
            "delivery": {"retry": 8, "backoffPolicy": "exponential", "backoffDelay": "PT0.2S"},
        },
    }


def trigger(consumer: Consumer) -> Object:
    """The Trigger as its folder declares it, in our namespace. One for the tick asks for its clock's events."""
    declared = dict(consumer.trigger)
    if declared["spec"].get("broker") != BROKER:
        raise DeclarationError(f"{consumer.source}: spec.broker must be {BROKER}, the only one there is")
    metadata = declared["metadata"]
    labels = {**LABELS, "app.kubernetes.io/name": consumer.name, **metadata.get("labels", {})}
    spec = declared["spec"]
    if _ticks(consumer):
        source = f"/apis/v1/namespaces/{NAMESPACE}/pingsources/{consumer.name}"
        spec = {**spec, "filter": {"attributes": {"type": PING, "source": source}}}
    return {**declared, "metadata": {**metadata, "namespace": NAMESPACE, "labels": labels}, "spec": spec}


def clock(consumer: Consumer) -> Iterable[Object]:
    """The PingSource of a consumer of the tick; of another, nothing."""
    if _ticks(consumer):
        yield {
            "apiVersion": "sources.knative.dev/v1",
            "kind": "PingSource",
            "metadata": {
                "name": consumer.name,
                "namespace": NAMESPACE,
                "labels": {**LABELS, "app.kubernetes.io/name": consumer.name},
            },
            "spec": {
                "schedule": f"*/{consumer.every_minutes} * * * *",
                "contentType": "application/json",
                "data": json.dumps({"every_seconds": 60 * consumer.every_minutes}),
                "sink": {"ref": {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "name": BROKER}},
            },
        }


def _ticks(consumer: Consumer) -> bool:
    wanted: bool = consumer.trigger["spec"].get("filter", {}).get("attributes", {}).get("type") == TICK
    return wanted
