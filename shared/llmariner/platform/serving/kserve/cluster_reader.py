"""Reads the cluster's objects of one model, or of all models with one list per kind. Calls block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import DEPLOYMENTS, INFERENCE_SERVICES, PODS, SERVICES
from llmariner.platform.serving.kserve.objects import INFERENCE_SERVICE_LABEL, deployment_name
from llmariner.platform.serving.kserve.phases import ObservedModel, is_gated
from llmariner.platform.serving.kserve.queues import PoolWorkloads, ProjectQueues, queue_of
from llmariner.settings import KServeSettings

__all__ = ["ClusterReader"]

Body = dict[str, Any]


class ClusterReader:
    """Reads the objects from which a status is derived."""

    def __init__(self, cluster: Cluster, settings: KServeSettings, queues: ProjectQueues) -> None:
        self._cluster = cluster
        self._namespace = settings.namespace
        self._queues = queues

    def read_one(self, name: str) -> ObservedModel:
        """The objects of the InferenceService with this name."""
        cluster, namespace = self._cluster, self._namespace
        service = cluster.get(INFERENCE_SERVICES, namespace, name)
        if service is None:
            return ObservedModel()
        deployment = cluster.get(DEPLOYMENTS, namespace, deployment_name(name))
        pods = cluster.list(PODS, namespace, labels={INFERENCE_SERVICE_LABEL: name}).items
        observed = ObservedModel(service, deployment, pods, _workloads(pods, PoolWorkloads(self._queues)))
        address = cluster.get(SERVICES, namespace, deployment_name(name)) if observed.ready else None
        return ObservedModel(service, deployment, pods, observed.workloads, address)

    def read_all(self) -> list[ObservedModel]:
        """The objects of every InferenceService: four lists, and two more where a pod waits for quota."""
        cluster, namespace = self._cluster, self._namespace
        services = cluster.list(INFERENCE_SERVICES, namespace).items
        deployments = _by_name(cluster.list(DEPLOYMENTS, namespace).items)
        addresses = _by_name(cluster.list(SERVICES, namespace).items)
        pods: dict[str, list[Body]] = {}
        for pod in cluster.list(PODS, namespace).items:
            pods.setdefault(pod["metadata"].get("labels", {}).get(INFERENCE_SERVICE_LABEL, ""), []).append(pod)
        pool_workloads = PoolWorkloads(self._queues)
        found = []
        for service in services:
            name = service["metadata"]["name"]
            mine, predictor = pods.get(name, []), deployment_name(name)
            found.append(
                ObservedModel(
                    service,
                    deployments.get(predictor),
                    mine,
                    _workloads(mine, pool_workloads),
                    addresses.get(predictor),
                )
            )
        return found


def _workloads(pods: Sequence[Body], pool_workloads: PoolWorkloads) -> Sequence[Body]:
    """The workloads of the pool in which one of these pods waits for quota; empty if none waits."""
    queue = next((queue_of(pod) for pod in pods if is_gated(pod)), None)
    return pool_workloads.of_queue(queue) if queue is not None else ()


def _by_name(objects: Sequence[Body]) -> dict[str, Body]:
    return {each["metadata"]["name"]: each for each in objects}
