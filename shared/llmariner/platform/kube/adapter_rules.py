"""The rules of RBAC that the adapters of the Kubernetes API need, each exactly the verbs that its adapter uses.

`manifests.rbac` gives them to functions in the control plane's own cluster, `sessions.control_plane_roles` to the control
plane in worker clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "ALLOCATION_RULES",
    "CLUSTER_QUOTA_RULES",
    "JOB_PROGRAM_RULES",
    "JOB_READING_RULES",
    "JOB_RULES",
    "JOB_STATUS_RULES",
    "QUOTA_RULES",
    "SERVING_RULES",
    "Rule",
    "rule",
]

Rule = dict[str, Any]
_READ_VERBS = ("get", "list")


def rule(group: str, resources: Sequence[str], *verbs: str) -> Rule:
    """One rule of a role."""
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


# Exactly the verbs that the serving adapter uses (tests/serving/test_least_privilege.py). Server-side apply of a new object
# needs both patch and create.
SERVING_RULES = (
    rule("serving.kserve.io", ["inferenceservices"], *_READ_VERBS, "create", "patch", "delete"),
    rule("apps", ["deployments"], *_READ_VERBS),
    rule("apps", ["deployments/scale"], "patch"),
    rule("", ["pods"], "list"),
    rule("", ["services"], *_READ_VERBS),
    # The tokens of an engine's adapters can be made and taken away, and not read.
    rule("", ["secrets"], "create", "delete"),
    # The adapter records unexpected engine responses as warning events of the InferenceService.
    rule("", ["events"], "create"),
    # One queue per project, and one autoscaler per model with several replicas.
    rule("kueue.x-k8s.io", ["workloads"], "list"),
    rule("kueue.x-k8s.io", ["localqueues"], *_READ_VERBS, "create", "patch", "delete"),
    rule("keda.sh", ["scaledobjects"], "create", "patch", "delete"),
    rule("autoscaling", ["horizontalpodautoscalers"], "create", "patch", "delete"),
)
# What `status` and `log` of the jobs adapter ask (tests/contract/platform/jobs/test_least_privilege.py).
_JOB_PODS = rule("", ["pods"], "list")
_JOB_PLACES = rule("visibility.kueue.x-k8s.io", ["localqueues/pendingworkloads"], "get")
JOB_STATUS_RULES = (
    rule("batch", ["jobs"], "get"),
    _JOB_PODS,
    rule("kueue.x-k8s.io", ["workloads"], "list"),
    _JOB_PLACES,
)
JOB_READING_RULES = (*JOB_STATUS_RULES, rule("", ["pods/log"], "get"))
JOB_RULES = (
    rule("batch", ["jobs"], "get", "create", "patch", "delete"),
    _JOB_PODS,
    _JOB_PLACES,
    # A job's Secrets can be made, and not read.
    rule("", ["secrets"], "create"),
    rule("", ["services"], "create"),
    rule("", ["persistentvolumeclaims"], "get", "create", "delete"),
    rule("networking.k8s.io", ["networkpolicies"], "create"),
    rule("kueue.x-k8s.io", ["workloads"], "list", "patch"),
    rule("kueue.x-k8s.io", ["localqueues"], "get", "create", "patch"),
)
# To start a program in a pod is to read all that the pod holds, so one function has this, and nothing that it does not need
# for it. The API server asks for "get" of a websocket, and since 1.35 for "create", too.
JOB_PROGRAM_RULES = (
    rule("batch", ["jobs"], "get"),
    _JOB_PODS,
    rule("", ["pods/exec"], "get", "create"),
)
# Exactly the verbs of the capacity adapter (tests/kubernetes_api/test_kueue_capacity.py).
QUOTA_RULES = (
    rule("kueue.x-k8s.io", ["workloads"], "list"),
    rule("kueue.x-k8s.io", ["localqueues"], *_READ_VERBS, "create", "patch", "delete"),
)
CLUSTER_QUOTA_RULES = (rule("kueue.x-k8s.io", ["clusterqueues", "cohorts"], *_READ_VERBS, "create", "patch", "delete"),)
# What `capacity.kueue_workloads` reads. A model's pod has the model's id.
ALLOCATION_RULES = (
    rule("kueue.x-k8s.io", ["workloads"], *_READ_VERBS),
    rule("kueue.x-k8s.io", ["localqueues"], "list"),
    rule("", ["pods"], "get"),
)
