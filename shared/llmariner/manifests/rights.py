"""What functions may do on the Kubernetes API: nothing, but for the one that serves models.

Rights end at the namespace of the models. None of them reaches a Secret, or an object of the platform itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import LABELS, MODELS_NAMESPACE, NAMESPACE, Object

__all__ = ["binding", "roles"]

GROUP = "rbac.authorization.k8s.io"
RUNTIMES = "llmariner-serving-runtimes"

_LOOK = ("get", "list", "watch")
_CHANGE = (*_LOOK, "create", "update", "patch", "delete")


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str]) -> Object:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


# Phases of a model and their causes: its own state, its pods', the scheduler's events, its place in the queue.
_READING = (
    _rule("serving.kserve.io", ["inferenceservices", "servingruntimes"], _LOOK),
    _rule("apps", ["deployments"], _LOOK),
    _rule("", ["pods", "services", "events"], _LOOK),
    _rule("kueue.x-k8s.io", ["workloads", "localqueues"], _LOOK),
    _rule("visibility.kueue.x-k8s.io", ["localqueues/pendingworkloads"], ["get"]),
)
_WRITING = (
    _rule("serving.kserve.io", ["inferenceservices"], _CHANGE),
    _rule("apps", ["deployments/scale"], ["get", "update", "patch"]),
    # A pod that stands by takes a model: its labels make it a replica of the model's Deployment.
    _rule("apps", ["replicasets"], ["get", "list"]),
    _rule("", ["pods"], ["patch", "delete"]),
    _rule("", ["events"], ["create"]),
    # A queue per project, an autoscaler per model that may have more replicas.
    _rule("kueue.x-k8s.io", ["localqueues"], ["create", "patch", "delete"]),
    _rule("keda.sh", ["scaledobjects"], ["get", "create", "patch", "delete"]),
    _rule("autoscaling", ["horizontalpodautoscalers"], ["get", "create", "patch", "delete"]),
)


def roles(workloads: Sequence[Workload]) -> Iterator[Object]:
    """The role in the models' namespace, and the one list of runtimes that is the whole cluster's."""
    yield {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Role",
        "metadata": {"name": "serving", "namespace": MODELS_NAMESPACE, "labels": LABELS},
        "rules": [*_READING, *_WRITING],
    }
    yield {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": RUNTIMES, "labels": LABELS},
        "rules": [_rule("serving.kserve.io", ["clusterservingruntimes"], _LOOK)],
    }
    yield {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": RUNTIMES, "labels": LABELS},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": RUNTIMES},
        "subjects": [_subject(workload) for workload in workloads if workload.rights],
    }


def binding(workload: Workload) -> Iterator[Object]:
    """Gives a workload the role that it declares; nothing for one that declares none."""
    if workload.rights:
        yield {
            "apiVersion": f"{GROUP}/v1",
            "kind": "RoleBinding",
            "metadata": {
                "name": workload.name,
                "namespace": MODELS_NAMESPACE,
                "labels": {**LABELS, "app.kubernetes.io/name": workload.name},
            },
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": workload.rights},
            "subjects": [_subject(workload)],
        }


def _subject(workload: Workload) -> Object:
    return {"kind": "ServiceAccount", "name": workload.name, "namespace": NAMESPACE}
