"""The credentials of Milvus, for the functions and consumers that use the vector index."""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import Object

__all__ = ["milvus"]

_EXTRA = "vectors"
_SECRET = "llmariner-milvus"
_MOUNT_PATH = "/var/run/llmariner/milvus"


def milvus(workloads: Iterable[Workload]) -> Object:
    """The kustomize component that mounts the Secret into each workload with the extra `vectors`, and into no other."""
    users = sorted(each.name for each in workloads if _EXTRA in each.extras)
    patch = [
        _add("volumes", {"name": "milvus", "secret": {"secretName": _SECRET, "defaultMode": 0o444}}),
        _add("containers/0/volumeMounts", {"name": "milvus", "mountPath": _MOUNT_PATH, "readOnly": True}),
        _add("containers/0/env", {"name": "LLMARINER_MILVUS_TOKEN_FILE", "value": f"{_MOUNT_PATH}/token"}),
    ]
    target = {"group": "serving.knative.dev", "kind": "Service", "name": f"({'|'.join(users)})"}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "patches": [{"target": target, "patch": json.dumps(patch, indent=1)}] if users else [],
    }


def _add(where: str, value: Object) -> Object:
    return {"op": "add", "path": f"/spec/template/spec/{where}/-", "value": value}
