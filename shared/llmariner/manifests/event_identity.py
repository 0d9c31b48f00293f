"""Authentication of event senders, for clusters with Knative's `authentication-oidc` feature.

Every function that publishes gets a projected token whose audience is the Broker; Kubernetes rotates it. The Broker
accepts the service accounts of the platform's namespace only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import BROKER, LABELS, NAMESPACE, Object

__all__ = ["event_identity", "event_policy"]

# Knative's audience of a Broker: group, kind, namespace and name, in lower case.
AUDIENCE = f"eventing.knative.dev/broker/{NAMESPACE}/{BROKER}"
_MOUNT_PATH = "/var/run/llmariner/broker"
_TOKEN_LIFETIME_SECONDS = 3600


def event_identity(workloads: Iterable[Workload]) -> Object:
    """The kustomize component that mounts a token into each function with a database, since those publish."""
    publishers = sorted(each.name for each in workloads if "database" in each.extras)
    token = {
        "serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": _TOKEN_LIFETIME_SECONDS, "path": "token"}
    }
    patch = [
        _add("volumes", {"name": "broker-token", "projected": {"sources": [token]}}),
        _add("containers/0/volumeMounts", {"name": "broker-token", "mountPath": _MOUNT_PATH, "readOnly": True}),
        _add("containers/0/env", {"name": "LLMARINER_BROKER_TOKEN_FILE", "value": f"{_MOUNT_PATH}/token"}),
    ]
    target = {"group": "serving.knative.dev", "kind": "Service", "name": f"({'|'.join(publishers)})"}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": ["event-policy.yaml"],
        "patches": [{"target": target, "patch": _json_patch(patch)}] if publishers else [],
    }


def event_policy() -> Object:
    """The policy that admits the service accounts of the namespace to the Broker: functions and Knative sources."""
    return {
        "apiVersion": "eventing.knative.dev/v1alpha1",
        "kind": "EventPolicy",
        "metadata": {"name": "broker", "namespace": NAMESPACE, "labels": LABELS},
        "spec": {
            "to": [{"ref": {"apiVersion": "eventing.knative.dev/v1", "kind": "Broker", "name": BROKER}}],
            "from": [{"sub": f"system:serviceaccount:{NAMESPACE}:*"}],
        },
    }


def _add(where: str, value: Object) -> Object:
    return {"op": "add", "path": f"/spec/template/spec/{where}/-", "value": value}


def _json_patch(operations: list[Object]) -> str:
    return json.dumps(operations, indent=1)
