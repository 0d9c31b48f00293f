"""An S3-compatible store for the functions that read or write the content of files.

An administrator creates the Secret `llmariner-object-store`. Its keys are optional: without an access key, functions use the
credentials of their service accounts; without `ca.crt`, the authorities that everybody trusts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.manifests.backing_services import add_operation, egress_policy, users_of
from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import NAMESPACE, SECRETS, SETTINGS, Object

__all__ = ["object_store", "object_store_policy", "object_store_settings"]

SECRET = "llmariner-object-store"
_EXTRA = "objects"
_MOUNT_PATH = "/var/run/llmariner/object-store"
_PREVIOUS_SECRET = "LLMARINER_PREVIOUS_SERVICE_SECRET"
_VARIABLES = {
    "LLMARINER_S3_ACCESS_KEY": (SECRET, "access-key"),
    "LLMARINER_S3_SECRET_KEY": (SECRET, "secret-key"),
    # While it is there, the links to files that it signed stay valid.
    _PREVIOUS_SECRET: (SECRETS, _PREVIOUS_SECRET),
}


def object_store(workloads: Iterable[Workload]) -> Object:
    """The kustomize component that gives functions with the objects extra the store and its credentials."""
    volume = {"name": "object-store", "secret": {"secretName": SECRET, "optional": True, "items": [_item("ca.crt")]}}
    patch = [
        add_operation("volumes", volume),
        add_operation(
            "containers/0/volumeMounts", {"name": "object-store", "mountPath": _MOUNT_PATH, "readOnly": True}
        ),
    ]
    for variable, (secret, key) in _VARIABLES.items():
        reference = {"name": secret, "key": key, "optional": True}
        patch.append(add_operation("containers/0/env", {"name": variable, "valueFrom": {"secretKeyRef": reference}}))
    names = users_of(_EXTRA, workloads)
    target = {"group": "serving.knative.dev", "kind": "Service", "name": f"({'|'.join(names)})"}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "patches": [
            {"path": "settings.yaml"},
            *([{"target": target, "patch": json.dumps(patch, indent=1)}] if names else []),
        ],
    }


def object_store_settings() -> Object:
    """The setting that chooses the adapter; those of the store are in the overlay's `settings.env`."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": SETTINGS, "namespace": NAMESPACE},
        "data": {"LLMARINER_OBJECTS": "s3"},
    }


def object_store_policy(workloads: Iterable[Workload]) -> Object:
    """The policy by which the functions with the extra `objects` reach the store."""
    return egress_policy("functions-to-object-store", users_of(_EXTRA, workloads), 443)


def _item(key: str) -> Object:
    return {"key": key, "path": key}
