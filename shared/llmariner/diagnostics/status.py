"""The status of the platform on a cluster, read from its objects: functions, models, queues, events, nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from llmariner.diagnostics.api_resources import API_SERVER_SOURCES, BROKERS, KNATIVE_SERVICES, PING_SOURCES, TRIGGERS
from llmariner.diagnostics.checks import load_target
from llmariner.diagnostics.models import ACCELERATOR_RESOURCES
from llmariner.diagnostics.result import Body, Unreadable
from llmariner.diagnostics.snapshot import ClusterSnapshot, condition, labels, not_ready_reason, spec
from llmariner.diagnostics.snapshot import status as object_status
from llmariner.diagnostics.target import Target
from llmariner.platform.kube import Cluster, Resource
from llmariner.platform.kube.quantities import parse_quantity
from llmariner.platform.kube.resources import (
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    LOCAL_QUEUES,
    NODES,
    PODS,
    WORKLOADS,
)
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.objects import deployment_name, model_id_of
from llmariner.platform.serving.kserve.phases import ObservedModel, status_of

__all__ = ["status"]

Record = dict[str, Any]

_SERVICE_LABEL = "serving.knative.dev/service"
_INFERENCE_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
_AUTOSCALING_PREFIX = "autoscaling.knative.dev/"


def status(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """The state of an installation: `functions`, `models`, `queues`, `waiting`, `events` and `nodes` as lists of records.

    `unreadable` maps the sections that could not be read to the reason.

    Raises Unavailable when no Kubernetes API server answers, Forbidden when it rejects the credentials.
    """
    snapshot = ClusterSnapshot(cluster)
    try:
        cluster.get_raw("/version")
        target, _ = load_target(snapshot, namespace)
        snapshot.prefetch(_prefetched(target))
        records: dict[str, Any] = {"unreadable": {}}
        for name, collect in _SECTIONS.items():
            try:
                records[name] = collect(target)
            except Unreadable as error:
                records[name] = []
                records["unreadable"][name] = f"{error} {error.remedy}"
        return records
    finally:
        snapshot.close()


def _prefetched(target: Target) -> list[tuple[Resource, str | None]]:
    platform_resources = (KNATIVE_SERVICES, DEPLOYMENTS, BROKERS, TRIGGERS, PING_SOURCES, API_SERVER_SOURCES)
    models = (INFERENCE_SERVICES, DEPLOYMENTS, PODS, LOCAL_QUEUES, WORKLOADS)
    return [
        *((each, target.namespace) for each in platform_resources),
        *((each, target.models.namespace) for each in models),
        (NODES, None),
    ]


def _functions(target: Target) -> list[Record]:
    replicas: dict[str, int] = {}
    for each in target.snapshot.list_objects(DEPLOYMENTS, target.namespace):
        name = labels(each).get(_SERVICE_LABEL, "")
        replicas[name] = replicas.get(name, 0) + int(object_status(each).get("readyReplicas") or 0)
    return [_function(each, replicas) for each in target.snapshot.list_objects(KNATIVE_SERVICES, target.namespace)]


def _function(service: Body, replicas: dict[str, int]) -> Record:
    name, why = service["metadata"]["name"], not_ready_reason(service)
    template = spec(service).get("template") or {}
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    return {
        "name": name,
        "state": "not ready" if why else "ready",
        "replicas": replicas.get(name, 0),
        "revision": object_status(service).get("latestReadyRevisionName"),
        "min": int(parse_quantity(annotations.get(f"{_AUTOSCALING_PREFIX}min-scale", 0))),
        "max": int(parse_quantity(annotations.get(f"{_AUTOSCALING_PREFIX}max-scale", 0))) or None,
        "message": why,
    }


def _models(target: Target) -> list[Record]:
    namespace = target.models.namespace
    deployments = {each["metadata"]["name"]: each for each in target.snapshot.list_objects(DEPLOYMENTS, namespace)}
    waiting = _oldest_first(target.snapshot.list_objects(WORKLOADS, namespace))
    pods: dict[str, list[Body]] = {}
    for pod in target.snapshot.list_objects(PODS, namespace):
        pods.setdefault(labels(pod).get(_INFERENCE_SERVICE_LABEL, ""), []).append(pod)
    records = []
    for service in target.snapshot.list_objects(INFERENCE_SERVICES, namespace):
        name = service["metadata"]["name"]
        observed = ObservedModel(service, deployments.get(deployment_name(name)), pods.get(name, ()), waiting)
        # The database is not read here: the wake times in it would only improve the estimates.
        model = EngineModel(id=model_id_of(service), folder="", task="", size_bytes=0)
        current = status_of(observed, model, now=time.time())
        records.append(
            {
                "id": model.id,
                "phase": str(current.phase),
                "replicas": f"{len(observed.ready)}/{observed.replicas}",
                "name": name,
                "message": current.message,
            }
        )
    return records


def _queues(target: Target) -> list[Record]:
    return [
        {
            "name": each["metadata"]["name"],
            "cluster_queue": spec(each).get("clusterQueue"),
            "pending": int(object_status(each).get("pendingWorkloads") or 0),
            "admitted": int(object_status(each).get("admittedWorkloads") or 0),
            "message": not_ready_reason(each, "Active"),
        }
        for each in target.snapshot.list_objects(LOCAL_QUEUES, target.models.namespace)
    ]


def _waiting(target: Target) -> list[Record]:
    """Workloads that wait for quota, oldest first."""
    return [
        {
            "workload": each["metadata"]["name"],
            "queue": spec(each).get("queueName"),
            "since": each["metadata"].get("creationTimestamp"),
            "message": condition(object_status(each), "QuotaReserved").get("message"),
        }
        for each in _oldest_first(target.snapshot.list_objects(WORKLOADS, target.models.namespace))
        if not_ready_reason(each, "QuotaReserved") and not_ready_reason(each, "Finished")
    ]


def _events(target: Target) -> list[Record]:
    return [
        {
            "kind": resource.kind,
            "name": each["metadata"]["name"],
            "state": "not ready" if (why := not_ready_reason(each)) else "ready",
            "message": why,
        }
        for resource in (BROKERS, TRIGGERS, PING_SOURCES, API_SERVER_SOURCES)
        for each in target.snapshot.list_objects(resource, target.namespace)
    ]


def _nodes(target: Target) -> list[Record]:
    return [_node(each) for each in target.snapshot.list_objects(NODES)]


def _node(node: Body) -> Record:
    offered = object_status(node).get("allocatable") or {}
    devices = {device: int(parse_quantity(offered.get(device, 0))) for device in ACCELERATOR_RESOURCES.values()}
    why = not_ready_reason(node)
    return {
        "name": node["metadata"]["name"],
        "state": "not ready" if why else "cordoned" if spec(node).get("unschedulable") else "ready",
        "cpu": f"{parse_quantity(offered.get('cpu', 0)):g}",
        "memory_bytes": int(parse_quantity(offered.get("memory", 0))),
        "accelerators": ", ".join(f"{count} {device}" for device, count in devices.items() if count),
        "message": why,
    }


def _oldest_first(workloads: list[Body]) -> list[Body]:
    return sorted(workloads, key=lambda each: str(each["metadata"].get("creationTimestamp", "")))


_SECTIONS: dict[str, Callable[[Target], list[Record]]] = {
    "functions": _functions,
    "models": _models,
    "queues": _queues,
    "waiting": _waiting,
    "events": _events,
    "nodes": _nodes,
}
