"""Milvus, for the functions and consumers that use the vector index: its credentials, and the way to it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.manifests.backing_services import add_operation, egress_policy, users_of
from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import Object

__all__ = ["milvus", "milvus_policy"]

_EXTRA = "vectors"
_SECRET = "llmariner-milvus"
_MOUNT_PATH = "/var/run/llmariner/milvus"


def milvus(workloads: Iterable[Workload]) -> Object:
    """The kustomize component that mounts the Secret into each workload that uses the index, and into no other."""
    users = users_of(_EXTRA, workloads)
    patch = [
        add_operation("volumes", {"name": "milvus", "secret": {"secretName": _SECRET, "defaultMode": 0o444}}),
        add_operation("containers/0/volumeMounts", {"name": "milvus", "mountPath": _MOUNT_PATH, "readOnly": True}),
        add_operation("containers/0/env", {"name": "LLMARINER_MILVUS_TOKEN_FILE", "value": f"{_MOUNT_PATH}/token"}),
    ]
    target = {"group": "serving.knative.dev", "kind": "Service", "name": f"({'|'.join(users)})"}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "patches": [{"target": target, "patch": json.dumps(patch, indent=1)}] if users else [],
    }


def milvus_policy(workloads: Iterable[Workload]) -> Object:
    """The policy by which the workloads that use the index reach Milvus."""
    return egress_policy("functions-to-milvus", users_of(_EXTRA, workloads), 19530)
