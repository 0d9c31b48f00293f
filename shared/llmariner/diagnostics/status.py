"""How the platform does on a cluster: functions, models, queues, events, nodes, as their objects say."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from llmariner.diagnostics.api_resources import API_SERVER_SOURCES, BROKERS, FUNCTIONS, PING_SOURCES, TRIGGERS
from llmariner.diagnostics.checks import place_of
from llmariner.diagnostics.models import DEVICES
from llmariner.diagnostics.result import Body, Unreadable
from llmariner.diagnostics.snapshot import Reading, condition, labels, ready, spec
from llmariner.diagnostics.snapshot import status as told
from llmariner.diagnostics.target import Place
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

_FUNCTION = "serving.knative.dev/service"
_MODEL = "serving.kserve.io/inferenceservice"
_SCALE = "autoscaling.knative.dev/"


def status(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """`functions`, `models`, `queues`, `waiting`, `events`, `nodes`: a list of records each; what may not be read is
    named in `unreadable`, with the reason.

    Unavailable when the API server doesn't answer, or is none; Forbidden when it doesn't take the credentials.
    """
    reading = Reading(cluster)
    try:
        cluster.get_raw("/version")
        place, _ = place_of(reading, namespace)
        reading.ahead(_reads(place))
        shown: dict[str, Any] = {"unreadable": {}}
        for name, look in _PARTS.items():
            try:
                shown[name] = look(place)
            except Unreadable as error:
                shown[name] = []
                shown["unreadable"][name] = f"{error} {error.mend}"
        return shown
    finally:
        reading.close()


def _reads(place: Place) -> list[tuple[Resource, str | None]]:
    ours = (FUNCTIONS, DEPLOYMENTS, BROKERS, TRIGGERS, PING_SOURCES, API_SERVER_SOURCES)
    models = (INFERENCE_SERVICES, DEPLOYMENTS, PODS, LOCAL_QUEUES, WORKLOADS)
    return [
        *((each, place.namespace) for each in ours),
        *((each, place.models.namespace) for each in models),
        (NODES, None),
    ]


def _functions(place: Place) -> list[Record]:
    replicas: dict[str, int] = {}
    for each in place.reading.all(DEPLOYMENTS, place.namespace):
        name = labels(each).get(_FUNCTION, "")
        replicas[name] = replicas.get(name, 0) + int(told(each).get("readyReplicas") or 0)
    return [_function(each, replicas) for each in place.reading.all(FUNCTIONS, place.namespace)]


def _function(service: Body, replicas: dict[str, int]) -> Record:
    name, why = service["metadata"]["name"], ready(service)
    template = spec(service).get("template") or {}
    bounds = (template.get("metadata") or {}).get("annotations") or {}
    return {
        "name": name,
        "state": "not ready" if why else "ready",
        "replicas": replicas.get(name, 0),
        "revision": told(service).get("latestReadyRevisionName"),
        "min": int(parse_quantity(bounds.get(f"{_SCALE}min-scale", 0))),
        "max": int(parse_quantity(bounds.get(f"{_SCALE}max-scale", 0))) or None,
        "message": why,
    }


def _models(place: Place) -> list[Record]:
    namespace = place.models.namespace
    deployments = {each["metadata"]["name"]: each for each in place.reading.all(DEPLOYMENTS, namespace)}
    waiting = _oldest_first(place.reading.all(WORKLOADS, namespace))
    pods: dict[str, list[Body]] = {}
    for pod in place.reading.all(PODS, namespace):
        pods.setdefault(labels(pod).get(_MODEL, ""), []).append(pod)
    shown = []
    for service in place.reading.all(INFERENCE_SERVICES, namespace):
        name = service["metadata"]["name"]
        observed = ObservedModel(service, deployments.get(deployment_name(name)), pods.get(name, ()), waiting)
        # What the database knows of a model, its usual time to wake, only makes estimates better.
        model = EngineModel(id=model_id_of(service), folder="", task="", size_bytes=0)
        now = status_of(observed, model, now=time.time())
        shown.append(
            {
                "id": model.id,
                "phase": str(now.phase),
                "replicas": f"{len(observed.ready)}/{observed.replicas}",
                "name": name,
                "message": now.message,
            }
        )
    return shown


def _queues(place: Place) -> list[Record]:
    return [
        {
            "name": each["metadata"]["name"],
            "cluster_queue": spec(each).get("clusterQueue"),
            "pending": int(told(each).get("pendingWorkloads") or 0),
            "admitted": int(told(each).get("admittedWorkloads") or 0),
            "message": ready(each, "Active"),
        }
        for each in place.reading.all(LOCAL_QUEUES, place.models.namespace)
    ]


def _waiting(place: Place) -> list[Record]:
    """Workloads without quota, those first in line above."""
    return [
        {
            "workload": each["metadata"]["name"],
            "queue": spec(each).get("queueName"),
            "since": each["metadata"].get("creationTimestamp"),
            "message": condition(told(each), "QuotaReserved").get("message"),
        }
        for each in _oldest_first(place.reading.all(WORKLOADS, place.models.namespace))
        if ready(each, "QuotaReserved") and ready(each, "Finished")
    ]


def _events(place: Place) -> list[Record]:
    return [
        {
            "kind": resource.kind,
            "name": each["metadata"]["name"],
            "state": "not ready" if (why := ready(each)) else "ready",
            "message": why,
        }
        for resource in (BROKERS, TRIGGERS, PING_SOURCES, API_SERVER_SOURCES)
        for each in place.reading.all(resource, place.namespace)
    ]


def _nodes(place: Place) -> list[Record]:
    return [_node(each) for each in place.reading.all(NODES)]


def _node(node: Body) -> Record:
    offered = told(node).get("allocatable") or {}
    devices = {device: int(parse_quantity(offered.get(device, 0))) for device in DEVICES.values()}
    why = ready(node)
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


_PARTS: dict[str, Callable[[Place], list[Record]]] = {
    "functions": _functions,
    "models": _models,
    "queues": _queues,
    "waiting": _waiting,
    "events": _events,
    "nodes": _nodes,
}
