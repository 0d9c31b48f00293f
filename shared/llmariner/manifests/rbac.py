"""The Kubernetes roles of functions: to serve models, to run or show jobs, to set quotas, to read what Kueue admitted.

Each is limited to the namespaces of models and jobs, but for ClusterQueues, which are in none. None reads Secrets, nor
objects of the platform itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import JOBS_NAMESPACE, LABELS, MODELS_NAMESPACE, NAMESPACE, Object

__all__ = ["binding", "roles", "standby_roles"]

RBAC_GROUP = "rbac.authorization.k8s.io"
STANDBY = "standby"
RUNTIMES = "llmariner-serving-runtimes"
CLUSTER_QUOTAS = "llmariner-quotas"

_READ_VERBS = ("get", "list")


def _rule(group: str, resources: Sequence[str], *verbs: str) -> Object:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


# Exactly the verbs that the serving adapter uses (tests/serving/test_least_privilege.py). Server-side apply of a new object
# needs both patch and create.
_SERVING_RULES = (
    _rule("serving.kserve.io", ["inferenceservices"], *_READ_VERBS, "create", "patch", "delete"),
    _rule("apps", ["deployments"], *_READ_VERBS),
    _rule("apps", ["deployments/scale"], "patch"),
    _rule("", ["pods"], "list"),
    _rule("", ["services"], *_READ_VERBS),
    # The adapter records unexpected engine responses as warning events of the InferenceService.
    _rule("", ["events"], "create"),
    # One queue per project, and one autoscaler per model with several replicas.
    _rule("kueue.x-k8s.io", ["workloads"], "list"),
    _rule("kueue.x-k8s.io", ["localqueues"], *_READ_VERBS, "create", "patch", "delete"),
    _rule("keda.sh", ["scaledobjects"], "create", "patch", "delete"),
    _rule("autoscaling", ["horizontalpodautoscalers"], "create", "patch", "delete"),
)
# What `status` and `log` of the jobs adapter ask (tests/contract/platform/jobs/test_least_privilege.py).
_JOB_PODS = _rule("", ["pods"], "list")
_JOB_PLACES = _rule("visibility.kueue.x-k8s.io", ["localqueues/pendingworkloads"], "get")
_JOB_STATUS_RULES = (
    _rule("batch", ["jobs"], "get"),
    _JOB_PODS,
    _rule("kueue.x-k8s.io", ["workloads"], "list"),
    _JOB_PLACES,
)
_JOB_READING_RULES = (*_JOB_STATUS_RULES, _rule("", ["pods/log"], "get"))
_JOB_RULES = (
    _rule("batch", ["jobs"], "get", "create", "patch", "delete"),
    _JOB_PODS,
    _JOB_PLACES,
    # A job's Secrets can be made, and not read.
    _rule("", ["secrets"], "create"),
    _rule("", ["services"], "create"),
    _rule("networking.k8s.io", ["networkpolicies"], "create"),
    _rule("kueue.x-k8s.io", ["workloads"], "list", "patch"),
    _rule("kueue.x-k8s.io", ["localqueues"], "get", "create", "patch"),
)
# To start a program in a pod is to read all that the pod holds, so one function has this, and nothing that it does not need
# for it. The API server asks for "get" of a websocket, and since 1.35 for "create", too.
_JOB_PROGRAM_RULES = (
    _rule("batch", ["jobs"], "get"),
    _JOB_PODS,
    _rule("", ["pods/exec"], "get", "create"),
)
_NAMESPACES = {
    "serving": (MODELS_NAMESPACE,),
    "jobs": (JOBS_NAMESPACE,),
    "jobs-reader": (JOBS_NAMESPACE,),
    "jobs-status": (JOBS_NAMESPACE,),
    "jobs-exec": (JOBS_NAMESPACE,),
    "quotas": (MODELS_NAMESPACE, JOBS_NAMESPACE),
    "allocations": (MODELS_NAMESPACE, JOBS_NAMESPACE),
}
# Assigning a model to a standby pod changes its labels, so that the model's Deployment adopts it. Patching pods includes
# changing their images, so this role exists only in installations with standby engines.
_STANDBY_RULES = (
    _rule("apps", ["replicasets"], "list"),
    _rule("", ["pods"], "patch", "delete"),
)


# Exactly the verbs of the capacity adapter (tests/kubernetes_api/test_kueue_capacity.py).
_QUOTA_RULES = (
    _rule("kueue.x-k8s.io", ["workloads"], "list"),
    _rule("kueue.x-k8s.io", ["localqueues"], *_READ_VERBS, "create", "patch", "delete"),
)
_CLUSTER_QUOTA_RULES = (
    _rule("kueue.x-k8s.io", ["clusterqueues", "cohorts"], *_READ_VERBS, "create", "patch", "delete"),
)
# What `capacity.kueue_workloads` reads. A model's pod has the model's id.
_ALLOCATION_RULES = (
    _rule("kueue.x-k8s.io", ["workloads"], *_READ_VERBS),
    _rule("kueue.x-k8s.io", ["localqueues"], "list"),
    _rule("", ["pods"], "get"),
)


def roles() -> Iterator[Object]:
    """The roles that functions may declare."""
    rules = {
        "serving": _SERVING_RULES,
        "jobs": _JOB_RULES,
        "jobs-reader": _JOB_READING_RULES,
        "jobs-status": _JOB_STATUS_RULES,
        "jobs-exec": _JOB_PROGRAM_RULES,
        "quotas": _QUOTA_RULES,
        "allocations": _ALLOCATION_RULES,
    }
    for name, namespaces in _NAMESPACES.items():
        for namespace in namespaces:
            yield _role("Role", {"name": name, "namespace": namespace, "labels": LABELS}, rules[name])
    yield _role("ClusterRole", {"name": CLUSTER_QUOTAS, "labels": LABELS}, _CLUSTER_QUOTA_RULES)


def standby_roles(workloads: Sequence[Workload]) -> Iterator[Object]:
    """The additional roles for standby engines: patch pods, and read ClusterServingRuntimes."""
    labels = {**LABELS, "app.kubernetes.io/name": "standby-engine"}
    subjects = [_subject(workload) for workload in workloads if workload.kubernetes_role == "serving"]
    namespaced = {"name": STANDBY, "namespace": MODELS_NAMESPACE, "labels": labels}
    yield _role("Role", namespaced, _STANDBY_RULES)
    yield _role_binding("Role", namespaced, STANDBY, subjects)
    cluster_wide = {"name": RUNTIMES, "labels": labels}
    yield _role("ClusterRole", cluster_wide, [_rule("serving.kserve.io", ["clusterservingruntimes"], "get")])
    yield _role_binding("ClusterRole", cluster_wide, RUNTIMES, subjects)


def binding(workload: Workload) -> Iterator[Object]:
    """The bindings of a workload to the role that it declares; nothing for one that declares none."""
    if workload.kubernetes_role:
        labels = {**LABELS, "app.kubernetes.io/name": workload.name}
        for namespace in _NAMESPACES[workload.kubernetes_role]:
            metadata = {"name": workload.name, "namespace": namespace, "labels": labels}
            yield _role_binding("Role", metadata, workload.kubernetes_role, [_subject(workload)])
        if workload.kubernetes_role == "quotas":
            cluster_wide = {"name": CLUSTER_QUOTAS, "labels": labels}
            yield _role_binding("ClusterRole", cluster_wide, CLUSTER_QUOTAS, [_subject(workload)])


def _role(kind: str, metadata: Object, rules: Sequence[Object]) -> Object:
    return {"apiVersion": f"{RBAC_GROUP}/v1", "kind": kind, "metadata": metadata, "rules": list(rules)}


def _role_binding(kind: str, metadata: Object, role: str, subjects: list[Object]) -> Object:
    return {
        "apiVersion": f"{RBAC_GROUP}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": kind, "name": role},
        "subjects": subjects,
    }


def _subject(workload: Workload) -> Object:
    return {"kind": "ServiceAccount", "name": workload.name, "namespace": NAMESPACE}
