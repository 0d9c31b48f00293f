"""Changes a model's objects to wake it or put it to sleep. Calls block and raise ClusterError on rejection."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError, Conflict, NotFound
from llmariner.platform.kube.resources import DEPLOYMENTS, INFERENCE_SERVICES
from llmariner.platform.serving import IMPORTED_SCHEME, EngineModel
from llmariner.platform.serving.kserve.adapter_secret import AdapterSecrets
from llmariner.platform.serving.kserve.autoscaling import Autoscaling
from llmariner.platform.serving.kserve.model_lookup import ServedEngine
from llmariner.platform.serving.kserve.objects import deployment_name, inference_service, is_managed, object_name
from llmariner.platform.serving.kserve.phases import ObservedModel, is_terminating
from llmariner.platform.serving.kserve.queues import ProjectQueues
from llmariner.platform.serving.kserve.standby import StandbyPods
from llmariner.settings import KServeSettings

__all__ = ["Transitions"]

_log = logging.getLogger(__name__)
_STOP_ANNOTATION = "serving.kserve.io/stop"
Body = dict[str, Any]


class Transitions:
    """Transitions of the models in one namespace."""

    def __init__(self, cluster: Cluster, settings: KServeSettings, queues: ProjectQueues, standby: StandbyPods) -> None:
        self._cluster = cluster
        self._settings = settings
        self._queues = queues
        self._standby = standby
        self._autoscaling = Autoscaling(cluster, settings)
        self.adapter_secrets = AdapterSecrets(cluster)

    def wake(self, served: ServedEngine, observed: ObservedModel) -> list[Body]:
        """Scale the model up; returns the reserved standby pod, if there is one."""
        model, adapters = served.engine, served.adapters
        ends = all(is_terminating(pod) for pod in observed.pods)
        if (
            model.folder.startswith(IMPORTED_SCHEME)
            or not ends
            or (reserved := self._standby.reserve(model, adapters)) is None
        ):
            self._scale_up(served, observed)
            return []
        try:
            self._scale_up(served, observed)
        except ClusterError:
            self._standby.release(reserved)
            raise
        return [reserved]

    def sleep(self, name: str, resource_version: str | None = None) -> None:
        """Scale to zero. Raises Conflict if the Deployment has changed since `resource_version`."""
        namespace = self._settings.namespace
        service = self._cluster.get(INFERENCE_SERVICES, namespace, name)
        if service is None:
            return
        if not is_managed(service) and not _scaled_by_us(service):
            self._set_stop(name, "true")
            return
        with contextlib.suppress(NotFound):
            self._cluster.scale(DEPLOYMENTS, namespace, deployment_name(name), 0, resource_version=resource_version)

    def scale_to_configured(self, model: EngineModel, observed: ObservedModel) -> None:
        """Scale a managed model up to its configured replicas: KServe creates the first Deployment with one."""
        if observed.deployment is None or observed.service is None or not is_managed(observed.service):
            return
        if 0 < observed.replicas < model.replicas:
            name = deployment_name(object_name(model, self._settings.namespace))
            version = observed.deployment["metadata"]["resourceVersion"]
            try:
                self._cluster.scale(
                    DEPLOYMENTS, self._settings.namespace, name, model.replicas, resource_version=version
                )
            except Conflict:
                _log.info("%s changed while it was scaled to its replicas: retried later", model.id)

    def delete(self, service: Body) -> None:
        """Delete a managed InferenceService, this very object (by uid)."""
        name, uid = service["metadata"]["name"], service["metadata"]["uid"]
        if is_managed(service):
            with contextlib.suppress(Conflict):  # a new object has the name
                self._cluster.delete(INFERENCE_SERVICES, self._settings.namespace, name, uid=uid)

    def _scale_up(self, served: ServedEngine, observed: ObservedModel) -> None:
        model = served.engine
        namespace = self._settings.namespace
        name = object_name(model, namespace)
        service = observed.service
        if not model.folder.startswith(IMPORTED_SCHEME):
            queue = self._queues.ensure(model.project, model.organization)
            wanted = inference_service(model, served.adapters, self._settings, queue)
            self.adapter_secrets.check(wanted, served)
            service = self._cluster.apply(wanted)
            self.adapter_secrets.make(service, served, observed.service)
        elif service is None:
            raise NotFound(f"The InferenceService {namespace}/{name} is gone.")
        elif not _scaled_by_us(service):
            self._set_stop(name, "false")
            return
        if observed.deployment is not None and observed.deployment["spec"].get("replicas", 1) == 0:
            self._cluster.scale(DEPLOYMENTS, namespace, deployment_name(name), max(1, model.replicas))
        if is_managed(service):
            self._autoscaling.apply(model, service)

    def _set_stop(self, name: str, value: str) -> None:
        """Set KServe's stop annotation, the only field that the platform owns in an object of others."""
        metadata = {"name": name, "namespace": self._settings.namespace, "annotations": {_STOP_ANNOTATION: value}}
        kind = {"apiVersion": INFERENCE_SERVICES.api_version, "kind": INFERENCE_SERVICES.kind}
        self._cluster.apply({**kind, "metadata": metadata})


def _scaled_by_us(service: Body) -> bool:
    """Whether KServe leaves the number of replicas to the platform."""
    annotations = service["metadata"].get("annotations", {})
    mode = annotations.get("serving.kserve.io/deploymentMode"), annotations.get("serving.kserve.io/autoscalerClass")
    return mode == ("Standard", "external")
