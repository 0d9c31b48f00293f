"""The Broker, the Triggers, and the event sources: PingSources, and ApiServerSources of Kubernetes objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from llmariner.manifests.declarations import Consumer, DeclarationError
from llmariner.manifests.installation import BROKER, JOBS_NAMESPACE, LABELS, MODELS_NAMESPACE, NAMESPACE, Object

__all__ = [
    "DEAD_LETTERS",
    "TICK_EVENT_TYPE",
    "broker",
    "kubernetes_changes",
    "ping_source",
    "trigger",
    "workload_changes",
]

DEAD_LETTERS = "dead-letters"
"""The function that stores events whose delivery failed finally."""

TICK_EVENT_TYPE = "ai.llmariner.platform.tick.v1"
"""The type of the periodic event (eventing/events.md)."""

_TO_BROKER: Object = {"ref": {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "name": BROKER}}

_WATCHED_NAMESPACES = (MODELS_NAMESPACE, JOBS_NAMESPACE)

PING_EVENT_TYPE = "dev.knative.sources.ping"
"""The type of every event of a PingSource; it is not configurable."""


def broker() -> Object:
    """The Broker, of the Kafka class because the in-memory class loses events at a restart.

    It retries 5xx, 404, 408, 409 and 429 with exponential backoff; other 4xx are final.
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


def trigger(consumer: Consumer, *, dead_lettered: bool) -> Object:
    """The declared Trigger, in the platform's namespace. One for the tick filters for the events of its PingSource.

    `dead_lettered`: undeliverable events go to the dead letter function, except ticks, which repeat anyway.
    """
    declared = dict(consumer.trigger)
    if declared["spec"].get("broker") != BROKER:
        raise DeclarationError(f"{consumer.source}: spec.broker must be {BROKER}, the only one there is")
    metadata = declared["metadata"]
    # Only Kafka's dispatcher reads this: events with the same key are delivered in order.
    annotations = {"kafka.eventing.knative.dev/delivery.order": "ordered", **metadata.get("annotations", {})}
    labels = {**LABELS, "app.kubernetes.io/name": consumer.name, **metadata.get("labels", {})}
    delivery = {**declared["spec"].get("delivery", {}), "timeout": f"PT{consumer.timeout_seconds}S"}
    spec = {**declared["spec"], "delivery": delivery}
    if _consumes_tick(consumer):
        source = f"/apis/v1/namespaces/{NAMESPACE}/pingsources/{consumer.name}"
        spec["filter"] = {"attributes": {"type": PING_EVENT_TYPE, "source": source}}
    elif dead_lettered:
        # The path names the consumer, as the deliveries table does.
        folder = consumer.folder.rpartition("/")[2]
        delivery["deadLetterSink"] = {"ref": _knative_service(DEAD_LETTERS), "uri": f"/{folder}"}
    namespaced = {**metadata, "namespace": NAMESPACE, "labels": labels, "annotations": annotations}
    return {**declared, "metadata": namespaced, "spec": spec}


def ping_source(consumer: Consumer) -> Iterable[Object]:
    """The PingSource of a consumer of the tick; nothing for others."""
    if _consumes_tick(consumer):
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
    """The source of changes of InferenceServices and Jobs, with its account and roles."""
    resources = (("serving.kserve.io/v1beta1", "InferenceService"), ("batch/v1", "Job"))
    return _changes("kubernetes-changes", resources)


def workload_changes() -> list[Object]:
    """The source of changes of Kueue's Workloads, for installations with Kueue, with its account and roles."""
    return _changes("workload-changes", (("kueue.x-k8s.io/v1beta2", "Workload"),))


def _changes(name: str, resources: Sequence[tuple[str, str]]) -> list[Object]:
    """An ApiServerSource that sends changes of kinds by reference."""
    group = "rbac.authorization.k8s.io"
    labels = {**LABELS, "app.kubernetes.io/name": name}
    metadata: Object = {"name": name, "namespace": NAMESPACE, "labels": labels}
    # The source asks for all its kinds in all its namespaces.
    rules = [
        {
            "apiGroups": [version.rpartition("/")[0]],
            "resources": [f"{kind.lower()}s"],
            "verbs": ["get", "list", "watch"],
        }
        for version, kind in resources
    ]
    binding: Object = {
        "kind": "RoleBinding",
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
    }
    role: Object = {"kind": "Role", "rules": rules}
    rights = [
        {"apiVersion": f"{group}/v1", "metadata": {**metadata, "namespace": namespace}, **body}
        for namespace in _WATCHED_NAMESPACES
        for body in (role, binding)
    ]
    namespaces = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(_WATCHED_NAMESPACES)}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        *rights,
        {
            "apiVersion": "sources.knative.dev/v1",
            "kind": "ApiServerSource",
            "metadata": metadata,
            "spec": {
                "serviceAccountName": name,
                "mode": "Reference",
                "namespaceSelector": {"matchExpressions": [namespaces]},
                "resources": [{"apiVersion": version, "kind": kind} for version, kind in resources],
                "sink": _TO_BROKER,
            },
        },
    ]


def _knative_service(name: str) -> Object:
    return {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": name}


def _consumes_tick(consumer: Consumer) -> bool:
    is_tick: bool = consumer.trigger["spec"].get("filter", {}).get("attributes", {}).get("type") == TICK_EVENT_TYPE
    return is_tick
