"""From asleep to awake and back, on a model's objects. Calls block; ClusterError where the cluster refuses."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError, Conflict, NotFound
from llmariner.platform.kube.resources import DEPLOYMENTS, INFERENCE_SERVICES
from llmariner.platform.serving import IMPORTED_SCHEME, EngineModel
from llmariner.platform.serving.kserve.autoscaling import Autoscaling
from llmariner.platform.serving.kserve.model_lookup import Served
from llmariner.platform.serving.kserve.objects import deployment_of, inference_service, object_name, ours
from llmariner.platform.serving.kserve.phases import Seen, is_leaving
from llmariner.platform.serving.kserve.queues import ProjectQueues
from llmariner.platform.serving.kserve.standby import StandbyPods
from llmariner.settings import KServeSettings

__all__ = ["Transitions"]

_log = logging.getLogger(__name__)
_STOP = "serving.kserve.io/stop"
Body = dict[str, Any]


class Transitions:
    """Of the models of one namespace."""

    def __init__(self, cluster: Cluster, settings: KServeSettings, queues: ProjectQueues, standby: StandbyPods) -> None:
        self._cluster = cluster
        self._settings = settings
        self._queues = queues
        self._standby = standby
        self._autoscaling = Autoscaling(cluster, settings)

    def wake(self, served: Served, seen: Seen) -> list[Body]:
        """Bring the objects to one replica; returns the pod that stood by for it, if one did."""
        model, adapters = served.engine, served.adapters
        ends = all(is_leaving(pod) for pod in seen.pods)
        if (
            model.folder.startswith(IMPORTED_SCHEME)
            or not ends
            or (reserved := self._standby.reserve(model, adapters)) is None
        ):
            self._scale_up(served, seen)
            return []
        try:
            self._scale_up(served, seen)
        except ClusterError:
            self._standby.release(reserved)
            raise
        return [reserved]

    def sleep(self, name: str, resource_version: str | None = None) -> None:
        """To no replicas; Conflict where the Deployment is not what it was at `resource_version`."""
        namespace = self._settings.namespace
        service = self._cluster.get(INFERENCE_SERVICES, namespace, name)
        if service is None:
            return
        if not ours(service) and not _scaled_by_us(service):
            self._stop(name, "true")
            return
        with contextlib.suppress(NotFound):
            self._cluster.scale(DEPLOYMENTS, namespace, deployment_of(name), 0, resource_version=resource_version)

    def complete(self, model: EngineModel, seen: Seen) -> None:
        """As many replicas as one of our models has when it is awake: KServe makes the first Deployment with one."""
        if seen.deployment is None or seen.service is None or not ours(seen.service):
            return
        if 0 < seen.replicas < model.replicas:
            name, version = deployment_of(object_name(model)), seen.deployment["metadata"]["resourceVersion"]
            try:
                self._cluster.scale(
                    DEPLOYMENTS, self._settings.namespace, name, model.replicas, resource_version=version
                )
            except Conflict:
                _log.info("%s changed while its replicas were to be completed: later", model.id)

    def delete(self, service: Body) -> None:
        """An InferenceService of ours, that very one."""
        name, uid = service["metadata"]["name"], service["metadata"]["uid"]
        if ours(service):
            with contextlib.suppress(Conflict):  # it is another by now
                self._cluster.delete(INFERENCE_SERVICES, self._settings.namespace, name, uid=uid)

    def _scale_up(self, served: Served, seen: Seen) -> None:
        model = served.engine
        name, namespace = object_name(model), self._settings.namespace
        service = seen.service
        if not model.folder.startswith(IMPORTED_SCHEME):
            queue = self._queues.of(model.project)
            service = self._cluster.apply(inference_service(model, served.adapters, self._settings, queue))
        elif service is None:
            raise NotFound(f"The InferenceService {namespace}/{name} is gone.")
        elif not _scaled_by_us(service):
            self._stop(name, "false")
            return
        if seen.deployment is not None and seen.deployment["spec"].get("replicas", 1) == 0:
            self._cluster.scale(DEPLOYMENTS, namespace, deployment_of(name), max(1, model.replicas))
        if ours(service):
            self._autoscaling.settle(model, service)

    def _stop(self, name: str, value: str) -> None:
        """KServe's own switch, for what it scales itself: the one field of another's object that we ever own."""
        metadata = {"name": name, "namespace": self._settings.namespace, "annotations": {_STOP: value}}
        kind = {"apiVersion": INFERENCE_SERVICES.api_version, "kind": INFERENCE_SERVICES.kind}
        self._cluster.apply({**kind, "metadata": metadata})


def _scaled_by_us(service: Body) -> bool:
    """Whether KServe leaves the number of replicas to others."""
    annotations = service["metadata"].get("annotations", {})
    mode = annotations.get("serving.kserve.io/deploymentMode"), annotations.get("serving.kserve.io/autoscalerClass")
    return mode == ("Standard", "external")
