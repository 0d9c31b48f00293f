"""The health of a cluster's nodes, and of the Deployments of Knative, KServe, Kueue and the GPU operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmariner import __version__
from llmariner.clusters.inventory import WORK, Inventory
from llmariner.errors import PlatformError
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.kube.resources import DEPLOYMENTS
from llmariner.sessions.roles import CONTROL_PLANE_USER

__all__ = ["DEPLOYMENT_NAMES", "component_statuses", "kubernetes_version"]

# Component: the namespaces where it is usually installed, and its Deployment.
_COMPONENTS = {
    "knative-serving": (("knative-serving",), "controller"),
    "knative-activator": (("knative-serving",), "activator"),
    "kserve": (("kserve",), "kserve-controller-manager"),
    "kueue": (("kueue-system",), "kueue-controller-manager"),
    "gpu-operator": (("gpu-operator", "nvidia"), "gpu-operator"),
}
DEPLOYMENT_NAMES = tuple(sorted({deployment for _, deployment in _COMPONENTS.values()}))
"""The Deployments that the agent reads, for its role."""
_MAX_SHOWN = 5
_MAY_BE_CONTROL_PLANE = {
    "apiVersion": "authorization.k8s.io/v1",
    "kind": "SelfSubjectAccessReview",
    "spec": {"resourceAttributes": {"verb": "impersonate", "resource": "users", "name": CONTROL_PLANE_USER}},
}


def kubernetes_version(cluster: Cluster) -> str:
    """The API server's version, such as `v1.34.4`."""
    return str(cluster.get_raw("/version").get("gitVersion", ""))[:64]


def component_statuses(cluster: Cluster, inventory: Inventory | None, problem: str = "") -> list[dict[str, Any]]:
    """The components that are installed. `problem`: why the inventory is missing."""
    found = [_status("agent", not problem, problem, __version__)]
    if inventory is not None:
        found.append(_nodes(inventory))
    return [*found, *_work(cluster), *_deployments(cluster)]


def _work(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """Whether the control plane may run work here; nothing where the administrator lets people in alone."""
    try:
        answer = cluster.create(_MAY_BE_CONTROL_PLANE)
    except (ClusterError, PlatformError):
        return
    if (answer.get("status") or {}).get("allowed"):
        yield _status(WORK, True, "The control plane may run work here.")


def _nodes(inventory: Inventory) -> dict[str, Any]:
    total, ready = inventory.total("nodes"), inventory.total("ready_nodes")
    names = [node.name for node in inventory.nodes if not node.ready][:_MAX_SHOWN]
    message = f"{total - ready} of {total} nodes are not ready: {', '.join(names)}." if ready < total else ""
    return _status("nodes", ready == total, message or f"{total} {'node is' if total == 1 else 'nodes are'} ready.")


def _deployments(cluster: Cluster) -> Iterator[dict[str, Any]]:
    for component, (namespaces, name) in _COMPONENTS.items():
        for namespace in namespaces:
            try:
                deployment = cluster.get(DEPLOYMENTS, namespace, name)
            except (ClusterError, PlatformError) as error:
                yield _status(component, False, f"Its Deployment can't be read: {error}")
                break
            if deployment is not None:
                yield _deployment(component, deployment)
                break


def _deployment(component: str, deployment: Mapping[str, Any]) -> dict[str, Any]:
    wanted = (deployment.get("spec") or {}).get("replicas", 1)
    available = (deployment.get("status") or {}).get("availableReplicas", 0)
    version = (deployment["metadata"].get("labels") or {}).get("app.kubernetes.io/version", "")
    message = "" if available >= 1 else f"None of its {wanted} replicas is available."
    return _status(component, available >= 1, message, version)


def _status(name: str, is_healthy: bool, message: str = "", version: str = "") -> dict[str, Any]:
    printable = "".join(each if each.isprintable() else " " for each in message)
    return {"name": name, "is_healthy": is_healthy, "message": printable[:1024], "version": version[:64]}
