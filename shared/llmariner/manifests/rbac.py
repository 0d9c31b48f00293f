"""The Kubernetes roles of functions: to serve models, to run or show jobs, to set quotas, to read what Kueue admitted.

Each is limited to the namespaces of models and jobs, but for ClusterQueues, which are in none. None reads Secrets, nor
objects of the platform itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import JOBS_NAMESPACE, LABELS, MODELS_NAMESPACE, NAMESPACE, Object
from llmariner.platform.kube.adapter_rules import (
    ALLOCATION_RULES,
    CLUSTER_QUOTA_RULES,
    JOB_PROGRAM_RULES,
    JOB_READING_RULES,
    JOB_RULES,
    JOB_STATUS_RULES,
    QUOTA_RULES,
    SERVING_RULES,
    rule,
)

__all__ = ["binding", "roles", "standby_roles"]

RBAC_GROUP = "rbac.authorization.k8s.io"
STANDBY = "standby"
RUNTIMES = "llmariner-serving-runtimes"
CLUSTER_QUOTAS = "llmariner-quotas"

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
    rule("apps", ["replicasets"], "list"),
    rule("", ["pods"], "patch", "delete"),
)


def roles() -> Iterator[Object]:
    """The roles that functions may declare."""
    rules = {
        "serving": SERVING_RULES,
        "jobs": JOB_RULES,
        "jobs-reader": JOB_READING_RULES,
        "jobs-status": JOB_STATUS_RULES,
        "jobs-exec": JOB_PROGRAM_RULES,
        "quotas": QUOTA_RULES,
        "allocations": ALLOCATION_RULES,
    }
    for name, namespaces in _NAMESPACES.items():
        for namespace in namespaces:
            yield _role("Role", {"name": name, "namespace": namespace, "labels": LABELS}, rules[name])
    yield _role("ClusterRole", {"name": CLUSTER_QUOTAS, "labels": LABELS}, CLUSTER_QUOTA_RULES)


def standby_roles(workloads: Sequence[Workload]) -> Iterator[Object]:
    """The additional roles for standby engines: patch pods, and read ClusterServingRuntimes."""
    labels = {**LABELS, "app.kubernetes.io/name": "standby-engine"}
    subjects = [_subject(workload) for workload in workloads if workload.kubernetes_role == "serving"]
    namespaced = {"name": STANDBY, "namespace": MODELS_NAMESPACE, "labels": labels}
    yield _role("Role", namespaced, _STANDBY_RULES)
    yield _role_binding("Role", namespaced, STANDBY, subjects)
    cluster_wide = {"name": RUNTIMES, "labels": labels}
    yield _role("ClusterRole", cluster_wide, [rule("serving.kserve.io", ["clusterservingruntimes"], "get")])
    yield _role_binding("ClusterRole", cluster_wide, RUNTIMES, subjects)


def binding(workload: Workload) -> Iterator[Object]:
    """The bindings of a workload to the role that it declares; nothing for one that declares none."""
    if workload.kubernetes_role:
        labels = {**LABELS, "app.kubernetes.io/name": workload.name}
        for namespace in _NAMESPACES[workload.kubernetes_role]:
            metadata = {"name": workload.name, "namespace": namespace, "labels": labels}
            yield _role_binding("Role", metadata, workload.kubernetes_role, [_subject(workload)])
        if workload.kubernetes_role == "quotas":
            cluster_wide = {"name": f"{CLUSTER_QUOTAS}-{workload.name}", "labels": labels}
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
