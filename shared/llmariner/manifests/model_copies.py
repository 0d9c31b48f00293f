"""Copies of models in the object store: the setting, and the container that fetches them before an engine starts.

An administrator creates the Secret `llmariner-model-store` in the models' namespace: the store's address, and credentials
that read objects below `models/` alone.
"""

from __future__ import annotations

from llmariner.manifests.installation import LABELS, NAMESPACE, SETTINGS, Object
from llmariner.manifests.services import SECURITY, image_name
from llmariner.platform.model_files.copy_scheme import COPY_SCHEME

__all__ = ["COPIES_IMAGE", "model_copies_settings", "storage_container"]

MODEL_STORE = "llmariner-model-store"
# That of the consumers that make copies.
COPIES_IMAGE = image_name("cluster", "database", "functions", "objects")


def storage_container() -> Object:
    """What KServe runs for the URIs of copies, in place of its own storage initializer. It appends URIs and folders."""
    container = {
        "name": "storage-initializer",
        "image": COPIES_IMAGE,
        "command": ["python", "-m", "llmariner.platform.model_files.object_copy"],
        "envFrom": [{"secretRef": {"name": MODEL_STORE}}],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "securityContext": SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ClusterStorageContainer",
        "metadata": {"name": "llmariner-model-copies", "labels": LABELS},
        "spec": {
            "container": container,
            "supportedUriFormats": [{"prefix": COPY_SCHEME}],
            "supportsMultiModelDownload": True,
            "workloadType": "initContainer",
        },
    }


def model_copies_settings() -> Object:
    """The setting by which functions copy models."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": SETTINGS, "namespace": NAMESPACE},
        "data": {"LLMARINER_MODEL_COPIES": "1"},
    }
