"""The resources that the platform reads and writes: a static table, so that a cold start needs no API discovery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

__all__ = [
    "ACCESS_REVIEWS",
    "CLUSTER_QUEUES",
    "CLUSTER_SERVING_RUNTIMES",
    "CONFIG_MAPS",
    "DEPLOYMENTS",
    "EVENTS",
    "HORIZONTAL_POD_AUTOSCALERS",
    "INFERENCE_SERVICES",
    "JOBS",
    "LEASES",
    "LOCAL_QUEUES",
    "NAMESPACES",
    "NETWORK_POLICIES",
    "NODES",
    "PERSISTENT_VOLUME_CLAIMS",
    "PODS",
    "REPLICA_SETS",
    "SCALED_OBJECTS",
    "SECRETS",
    "SERVICES",
    "SERVING_RUNTIMES",
    "WORKLOADS",
    "Resource",
    "path_part",
    "resource_for",
]


@dataclass(frozen=True)
class Resource:
    """One kind at one API version, with its path."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL's path; `namespace` None: all namespaces. ValueError for a namespaced object without a namespace."""
        root = "api" if "/" not in self.api_version else "apis"
        scope = ["namespaces", namespace] if self.namespaced and namespace else []
        if self.namespaced and name and not namespace:
            raise ValueError(f"A {self.kind} stands in a namespace: name it.")
        parts = [root, *self.api_version.split("/"), *scope, self.plural, name, subresource]
        return "/" + "/".join(path_part(part) for part in parts if part)


def path_part(name: str) -> str:
    """A name as one part of a path, whatever it is: a client would take `..` for a way up."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


_KSERVE = "serving.kserve.io/v1"
_KUEUE = "kueue.x-k8s.io/v1beta2"

INFERENCE_SERVICES = Resource(f"{_KSERVE}beta1", "InferenceService", "inferenceservices")
SERVING_RUNTIMES = Resource(f"{_KSERVE}alpha1", "ServingRuntime", "servingruntimes")
CLUSTER_SERVING_RUNTIMES = Resource(f"{_KSERVE}alpha1", "ClusterServingRuntime", "clusterservingruntimes", False)
DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments")
REPLICA_SETS = Resource("apps/v1", "ReplicaSet", "replicasets")
JOBS = Resource("batch/v1", "Job", "jobs")
PODS = Resource("v1", "Pod", "pods")
EVENTS = Resource("v1", "Event", "events")
NODES = Resource("v1", "Node", "nodes", False)
NAMESPACES = Resource("v1", "Namespace", "namespaces", False)
SERVICES = Resource("v1", "Service", "services")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
SECRETS = Resource("v1", "Secret", "secrets")
PERSISTENT_VOLUME_CLAIMS = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
NETWORK_POLICIES = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
HORIZONTAL_POD_AUTOSCALERS = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
SCALED_OBJECTS = Resource("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
CLUSTER_QUEUES = Resource(_KUEUE, "ClusterQueue", "clusterqueues", False)
COHORTS = Resource(_KUEUE, "Cohort", "cohorts", False)
LOCAL_QUEUES = Resource(_KUEUE, "LocalQueue", "localqueues")
WORKLOADS = Resource(_KUEUE, "Workload", "workloads")
ACCESS_REVIEWS = Resource("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", False)

_BY_KIND = {(each.api_version, each.kind): each for each in list(globals().values()) if isinstance(each, Resource)}


def resource_for(body: Mapping[str, Any]) -> Resource:
    """The resource of a body's `apiVersion` and `kind`. ValueError when it is not in this module."""
    key = body.get("apiVersion"), body.get("kind")
    if key not in _BY_KIND:
        raise ValueError(f"{key[1]} of {key[0]} is not in platform/kube/resources.py: add it there.")
    return _BY_KIND[key]
