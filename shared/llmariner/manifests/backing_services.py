"""What functions need of services beside the platform, such as Milvus or an S3-compatible store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import LABELS, NAMESPACE, Object

__all__ = ["add_operation", "egress_policy", "users_of"]


def users_of(extra: str, workloads: Iterable[Workload]) -> list[str]:
    """The names of the workloads with an extra."""
    return sorted(each.name for each in workloads if extra in each.extras)


def add_operation(where: str, value: Object) -> Object:
    """The operation of a JSON patch that appends to a list of a pod's specification."""
    return {"op": "add", "path": f"/spec/template/spec/{where}/-", "value": value}


def egress_policy(name: str, users: Sequence[str], port: int) -> Object:
    """With components/network-policy: these workloads reach a port, inside or outside the cluster.

    A policy contains no host names. The address of the cloud's metadata, which has the credentials of the node, is excepted.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": LABELS},
        "spec": {
            "podSelector": {
                "matchExpressions": [
                    {"key": "serving.knative.dev/service", "operator": "In", "values": users or ["none"]}
                ]
            },
            "policyTypes": ["Egress"],
            "egress": [
                {
                    "to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}}],
                    "ports": [{"port": port, "protocol": "TCP"}],
                }
            ],
        },
    }
