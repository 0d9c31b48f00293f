"""Autoscaling of models that are awake, up to `max_replicas`: a KEDA ScaledObject, else a HorizontalPodAutoscaler.

Neither wakes a model nor puts one to sleep (docs/decisions/0008-one-writer-per-transition.md). The InferenceService owns
both, so Kubernetes deletes them with it.
"""

from __future__ import annotations

import time
from typing import Any

from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import NotFound
from llmariner.platform.kube.resources import HORIZONTAL_POD_AUTOSCALERS, SCALED_OBJECTS, Resource
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.objects import MANAGED_BY_LABELS, deployment_name
from llmariner.settings import KServeSettings

__all__ = ["Autoscaling", "horizontal_pod_autoscaler", "scaled_object"]

_KEDA = "/apis/keda.sh/v1alpha1"
_CUSTOM_METRICS = "/apis/custom.metrics.k8s.io/v1beta1"
_DISCOVERY_CACHE_SECONDS = 300.0
# Targets per engine replica: requests queued in the engine, use of its KV cache, CPU use.
_WAITING, _CACHE_PERCENT, _CPU_PERCENT = 4, 80, 80
_NEVER = 2**31 - 1
_BEHAVIOR = {
    "scaleUp": {"stabilizationWindowSeconds": 0},
    # A replica drains its streams before it ends, so scaling down and up again soon is expensive.
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    },
}

Body = dict[str, Any]


class Autoscaling:
    """Autoscalers in one cluster, which may have KEDA, a custom metrics adapter, or neither. Calls block."""

    def __init__(self, cluster: Cluster, settings: KServeSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._discovered: dict[str, tuple[float, bool]] = {}

    def apply(self, model: EngineModel, service: Body) -> None:
        """Apply the autoscaler that the model's configuration requires and delete others. Raises ClusterError.

        `service`: the stored InferenceService.
        """
        desired = self._desired_autoscaler(model, service)
        # The other kind is deleted first: two autoscalers of one Deployment conflict, and KEDA rejects the second.
        for kind in (HORIZONTAL_POD_AUTOSCALERS, SCALED_OBJECTS):
            if desired is None or desired["kind"] != kind.kind:
                self._cluster.delete(kind, self._settings.namespace, _name(service))
        if desired is not None:
            self._cluster.apply(desired)

    def _desired_autoscaler(self, model: EngineModel, service: Body) -> Body | None:
        if model.max_replicas <= max(1, model.replicas):
            return None
        if self._settings.prometheus and self._serves_api(_KEDA):
            return scaled_object(model, service, self._settings)
        return horizontal_pod_autoscaler(model, service, engine_metrics=self._serves_api(_CUSTOM_METRICS))

    def _serves_api(self, path: str) -> bool:
        """Whether the cluster serves an API group; cached for five minutes."""
        at, served = self._discovered.get(path, (float("-inf"), False))
        if time.monotonic() - at > _DISCOVERY_CACHE_SECONDS:
            try:
                served = bool(self._cluster.get_raw(path))
            except NotFound:
                served = False
            self._discovered[path] = (time.monotonic(), served)
        return served


def scaled_object(model: EngineModel, service: Body, settings: KServeSettings) -> Body:
    """KEDA's ScaledObject, on the engines' metrics in Prometheus.

    The query selects this model's pods by the label that components/monitoring adds to their series: the model name of the
    series comes from the engine, and models of several projects may share a name.
    """
    named = service["metadata"]["name"]
    of_model = f'{{namespace="{settings.namespace}",serving_kserve_io_inferenceservice="{named}"}}'
    asked = (
        ("waiting", f"sum(vllm:num_requests_waiting{of_model})", _WAITING),
        ("cache", f"100 * sum(vllm:kv_cache_usage_perc{of_model})", _CACHE_PERCENT),
    )
    triggers = [
        {
            "type": "prometheus",
            "name": name,
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": settings.prometheus,
                "query": query,
                "threshold": str(threshold),
                # No trigger ever becomes active: KEDA must not decide whether a model is awake.
                "activationThreshold": "1000000000",
            },
        }
        for name, query, threshold in asked
    ]
    spec = {
        "scaleTargetRef": {"name": _target(service)},
        # Without idleReplicaCount KEDA would scale a sleeping model up to the minimum.
        "idleReplicaCount": 0,
        "minReplicaCount": max(1, model.replicas),
        "maxReplicaCount": model.max_replicas,
        "pollingInterval": 5,
        "cooldownPeriod": _NEVER,
        "initialCooldownPeriod": _NEVER,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _BEHAVIOR}},
        "triggers": triggers,
    }
    return _owned(SCALED_OBJECTS, service, spec)


def horizontal_pod_autoscaler(model: EngineModel, service: Body, *, engine_metrics: bool) -> Body:
    """A HorizontalPodAutoscaler, on CPU use, or with `engine_metrics` on the engines' custom metrics."""
    by_processor = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": _CPU_PERCENT}}
    metrics: list[Body] = [{"type": "Resource", "resource": by_processor}]
    if engine_metrics:
        waiting, cache = f"{_WAITING}", f"{10 * _CACHE_PERCENT}m"
        metrics = [_pods_metric("vllm:num_requests_waiting", waiting), _pods_metric("vllm:kv_cache_usage_perc", cache)]
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": _target(service)},
        "minReplicas": max(1, model.replicas),
        "maxReplicas": model.max_replicas,
        "behavior": _BEHAVIOR,
        "metrics": metrics,
    }
    return _owned(HORIZONTAL_POD_AUTOSCALERS, service, spec)


def _pods_metric(metric: str, value: str) -> Body:
    return {
        "type": "Pods",
        "pods": {"metric": {"name": metric}, "target": {"type": "AverageValue", "averageValue": value}},
    }


def _owned(kind: Resource, service: Body, spec: Body) -> Body:
    metadata = service["metadata"]
    owner = {"apiVersion": service["apiVersion"], "kind": service["kind"]}
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": _name(service),
            "namespace": metadata["namespace"],
            "labels": MANAGED_BY_LABELS,
            "ownerReferences": [{**owner, "name": metadata["name"], "uid": metadata["uid"]}],
        },
        "spec": spec,
    }


def _name(service: Body) -> str:
    # Differs from the name of KServe's own autoscalers, which KServe deletes when it is configured to create none.
    return f"{service['metadata']['name']}-autoscaler"


def _target(service: Body) -> str:
    return deployment_name(service["metadata"]["name"])
