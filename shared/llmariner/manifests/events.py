"""Broker, Triggers and the clock that wakes sweeps: what carries events to the functions that act on them."""

from __future__ import annotations

from collections.abc import Iterable

from llmariner.manifests.declarations import Consumer, DeclarationError
from llmariner.manifests.installation import BROKER, LABELS, NAMESPACE, Object

__all__ = ["broker", "ping", "trigger"]

PING = "dev.knative.sources.ping"
"""The type of every event that a PingSource sends; it cannot send another."""


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
    """The Trigger as its folder declares it, in our namespace."""
    declared = dict(consumer.trigger)
    if declared["spec"].get("broker") != BROKER:
        raise DeclarationError(f"{consumer.source}: spec.broker must be {BROKER}, the only one there is")
    metadata = declared["metadata"]
    labels = {**LABELS, "app.kubernetes.io/name": consumer.name, **metadata.get("labels", {})}
    return {**declared, "metadata": {**metadata, "namespace": NAMESPACE, "labels": labels}}


def ping(consumer: Consumer) -> Iterable[Object]:
    """The clock of a consumer that waits for one: a PingSource of its name, or nothing."""
    if _event_type(consumer) == PING:
        yield {
            "apiVersion": "sources.knative.dev/v1",
            "kind": "PingSource",
            "metadata": {
                "name": consumer.name,
                "namespace": NAMESPACE,
                "labels": {**LABELS, "app.kubernetes.io/name": consumer.name},
            },
            "spec": {
                "schedule": consumer.schedule,
                "contentType": "application/json",
                "data": "{}",
                "sink": {"ref": {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "name": BROKER}},
            },
        }


def _event_type(consumer: Consumer) -> str | None:
    found: str | None = consumer.trigger["spec"].get("filter", {}).get("attributes", {}).get("type")
    return found
