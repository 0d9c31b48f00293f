"""Broker, Triggers, and the sources of what happens by itself: the clock, and changes of Kubernetes objects."""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.manifests.declarations import Consumer, DeclarationError
from llmariner.manifests.installation import BROKER, LABELS, MODELS_NAMESPACE, NAMESPACE, Object

__all__ = ["DEAD_LETTERS", "TICK", "broker", "clock", "kubernetes_changes", "trigger"]

DEAD_LETTERS = "dead-letters"
"""The function that keeps what a consumer never took."""

TICK = "ai.llmariner.platform.tick.v1"
"""The event that says that time passed (eventing/events.md)."""

_TO_BROKER: Object = {"ref": {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "name": BROKER}}

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


def trigger(consumer: Consumer, *, buried: bool) -> Object:
    """The Trigger as its folder declares it, in our namespace. One for the tick asks for its clock's events.

    `buried`: what it never takes is given to the function that keeps dead letters. A tick is not: the next one comes.
    """
    declared = dict(consumer.trigger)
    if declared["spec"].get("broker") != BROKER:
        raise DeclarationError(f"{consumer.source}: spec.broker must be {BROKER}, the only one there is")
    metadata = declared["metadata"]
    # Kafka's dispatcher alone reads it: what has one key is delivered one after the other.
    annotations = {"kafka.eventing.knative.dev/delivery.order": "ordered", **metadata.get("annotations", {})}
    labels = {**LABELS, "app.kubernetes.io/name": consumer.name, **metadata.get("labels", {})}
    delivery = {**declared["spec"].get("delivery", {}), "timeout": f"PT{consumer.timeout_seconds}S"}
    spec = {**declared["spec"], "delivery": delivery}
    if _ticks(consumer):
        source = f"/apis/v1/namespaces/{NAMESPACE}/pingsources/{consumer.name}"
        spec["filter"] = {"attributes": {"type": PING, "source": source}}
    elif buried:
        # The path says whose letter it is, by the name under which the book of deliveries knows the consumer.
        folder = consumer.folder.rpartition("/")[2]
        delivery["deadLetterSink"] = {"ref": _knative_service(DEAD_LETTERS), "uri": f"/{folder}"}
    placed = {**metadata, "namespace": NAMESPACE, "labels": labels, "annotations": annotations}
    return {**declared, "metadata": placed, "spec": spec}


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
                "sink": _TO_BROKER,
            },
        }


def kubernetes_changes() -> list[Object]:
    """Tells the Broker of every change of a model's object or of a job, by reference; with the account that may look."""
    name = "kubernetes-changes"
    group = "rbac.authorization.k8s.io"
    labels = {**LABELS, "app.kubernetes.io/name": name}
    here, there = ({"name": name, "namespace": place, "labels": labels} for place in (NAMESPACE, MODELS_NAMESPACE))
    watched = (("serving.kserve.io/v1beta1", "InferenceService"), ("batch/v1", "Job"))
    look = ["get", "list", "watch"]
    rules = [
        {"apiGroups": ["serving.kserve.io"], "resources": ["inferenceservices"], "verbs": look},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": look},
    ]
    subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": here},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": there, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": there,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [subject],
        },
        {
            "apiVersion": "sources.knative.dev/v1",
            "kind": "ApiServerSource",
            "metadata": here,
            "spec": {
                "serviceAccountName": name,
                "mode": "Reference",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": MODELS_NAMESPACE}},
                "resources": [{"apiVersion": version, "kind": kind} for version, kind in watched],
                "sink": _TO_BROKER,
            },
        },
    ]


def _knative_service(name: str) -> Object:
    return {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": name}


def _ticks(consumer: Consumer) -> bool:
    wanted: bool = consumer.trigger["spec"].get("filter", {}).get("attributes", {}).get("type") == TICK
    return wanted
