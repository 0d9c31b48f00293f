"""Milvus, for the functions and consumers that use the vector index: its credentials, and the way to it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import LABELS, NAMESPACE, Object

__all__ = ["milvus", "milvus_policy"]

_EXTRA = "vectors"
_SECRET = "llmariner-milvus"
_MOUNT_PATH = "/var/run/llmariner/milvus"


def milvus(workloads: Iterable[Workload]) -> Object:
    """The kustomize component that mounts the Secret into each workload with the extra `vectors`, and into no other."""
    users = _users(workloads)
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


def milvus_policy(workloads: Iterable[Workload]) -> Object:
    """With components/network-policy: these workloads reach Milvus' port, inside or outside the cluster.

    A policy contains no host names. The address of the cloud's metadata, which has the credentials of the node, is excepted.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "functions-to-milvus", "namespace": NAMESPACE, "labels": LABELS},
        "spec": {
            "podSelector": {
                "matchExpressions": [
                    {"key": "serving.knative.dev/service", "operator": "In", "values": _users(workloads) or ["none"]}
                ]
            },
            "policyTypes": ["Egress"],
            "egress": [
                {
                    "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}],
                    "ports": [{"port": 19530, "protocol": "TCP"}],
                }
            ],
        },
    }


def _users(workloads: Iterable[Workload]) -> list[str]:
    return sorted(each.name for each in workloads if _EXTRA in each.extras)


def _add(where: str, value: Object) -> Object:
    return {"op": "add", "path": f"/spec/template/spec/{where}/-", "value": value}
