"""Who speaks to the Broker, where Knative's `authentication-oidc` is on: our own accounts and nobody else.

Every function that publishes gets a token that is good for our Broker only, and that Kubernetes replaces in time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import BROKER, LABELS, NAMESPACE, Object

__all__ = ["event_identity", "event_policy"]

# As Knative names a Broker to a token's maker: group, kind, namespace and name, in lower case.
AUDIENCE = f"eventing.knative.dev/broker/{NAMESPACE}/{BROKER}"
_FOLDER = "/var/run/llmariner/broker"
_SECONDS = 3600


def event_identity(workloads: Iterable[Workload]) -> Object:
    """The component: a token for each function with a database, since those publish."""
    publishing = sorted(each.name for each in workloads if "database" in each.extras)
    token = {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": _SECONDS, "path": "token"}}
    patch = [
        _add("volumes", {"name": "broker-token", "projected": {"sources": [token]}}),
        _add("containers/0/volumeMounts", {"name": "broker-token", "mountPath": _FOLDER, "readOnly": True}),
        _add("containers/0/env", {"name": "LLMARINER_BROKER_TOKEN_FILE", "value": f"{_FOLDER}/token"}),
    ]
    target = {"group": "serving.knative.dev", "kind": "Service", "name": f"({'|'.join(publishing)})"}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": ["event-policy.yaml"],
        "patches": [{"target": target, "patch": _json_patch(patch)}] if publishing else [],
    }


def event_policy() -> Object:
    """Accounts of our namespace may send to the Broker: functions, and the sources that Knative runs for us there."""
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
