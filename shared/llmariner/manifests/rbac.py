"""What functions may do on the Kubernetes API: nothing, but for the one that serves models.

Rights end at the namespace of the models. None of them reaches a Secret, or an object of the platform itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import LABELS, MODELS_NAMESPACE, NAMESPACE, Object

__all__ = ["binding", "roles", "standby_rights"]

GROUP = "rbac.authorization.k8s.io"
STANDBY = "standby"
RUNTIMES = "llmariner-serving-runtimes"

_LOOK = ("get", "list")


def _rule(group: str, resources: Sequence[str], *verbs: str) -> Object:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


# What the serving adapter asks, and no verb more (tests/serving/test_least_rights.py). Server-side apply of an object that
# is not there yet is a patch and a creation.
_SERVING = (
    _rule("serving.kserve.io", ["inferenceservices"], *_LOOK, "create", "patch", "delete"),
    _rule("apps", ["deployments"], *_LOOK),
    _rule("apps", ["deployments/scale"], "patch"),
    _rule("", ["pods"], "list"),
    _rule("", ["services"], *_LOOK),
    # That an engine answers otherwise than expected is a warning of its InferenceService.
    _rule("", ["events"], "create"),
    # A queue per project, an autoscaler per model that may have more replicas.
    _rule("kueue.x-k8s.io", ["workloads"], "list"),
    _rule("kueue.x-k8s.io", ["localqueues"], *_LOOK, "create", "patch", "delete"),
    _rule("keda.sh", ["scaledobjects"], "create", "patch", "delete"),
    _rule("autoscaling", ["horizontalpodautoscalers"], "create", "patch", "delete"),
)
# A pod that stands by takes a model: its labels make it a replica of the model's Deployment. Who may patch any pod of the
# namespace may change its image, so this is only where there are such pods.
_STANDBY = (
    _rule("apps", ["replicasets"], "list"),
    _rule("", ["pods"], "patch", "delete"),
)


def roles() -> Iterator[Object]:
    """The role in the models' namespace."""
    yield _role("Role", {"name": "serving", "namespace": MODELS_NAMESPACE, "labels": LABELS}, _SERVING)


def standby_rights(workloads: Sequence[Workload]) -> Iterator[Object]:
    """What whoever serves models may do besides where engines stand by: join pods to models, read what runtimes say."""
    labels = {**LABELS, "app.kubernetes.io/name": "standby-engine"}
    subjects = [_subject(workload) for workload in workloads if workload.rights]
    here = {"name": STANDBY, "namespace": MODELS_NAMESPACE, "labels": labels}
    yield _role("Role", here, _STANDBY)
    yield _bound("Role", here, STANDBY, subjects)
    everywhere = {"name": RUNTIMES, "labels": labels}
    yield _role("ClusterRole", everywhere, [_rule("serving.kserve.io", ["clusterservingruntimes"], "get")])
    yield _bound("ClusterRole", everywhere, RUNTIMES, subjects)


def binding(workload: Workload) -> Iterator[Object]:
    """Gives a workload the role that it declares; nothing for one that declares none."""
    if workload.rights:
        labels = {**LABELS, "app.kubernetes.io/name": workload.name}
        metadata = {"name": workload.name, "namespace": MODELS_NAMESPACE, "labels": labels}
        yield _bound("Role", metadata, workload.rights, [_subject(workload)])


def _role(kind: str, metadata: Object, rules: Sequence[Object]) -> Object:
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": metadata, "rules": list(rules)}


def _bound(kind: str, metadata: Object, role: str, subjects: list[Object]) -> Object:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
        "subjects": subjects,
    }


def _subject(workload: Workload) -> Object:
    return {"kind": "ServiceAccount", "name": workload.name, "namespace": NAMESPACE}
