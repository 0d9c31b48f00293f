"""Models from outside the platform: InferenceServices with the scripted engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmariner import __version__
from llmariner.manifests.installation import MODELS_NAMESPACE

from ..lab.kubectl import apply, get, kubectl
from ..lab.places import Lab

__all__ = ["IMAGE", "scripted", "service", "specification"]

Body = dict[str, Any]

IMAGE = f"dev.local/llmariner/function-api-cluster-database:{__version__}"
"""Has Python and what the scripted engine imports."""

_PROGRAM = Path(__file__).parents[2] / "engines"
_MAP = "scripted-engine"
# The platform wakes and puts to sleep: KServe makes a Deployment and leaves its replicas alone.
_SCALED_BY_US = {"serving.kserve.io/deploymentMode": "Standard", "serving.kserve.io/autoscalerClass": "external"}


def program(lab: Lab) -> None:
    """The engine's program, where pods can mount it."""
    data = {each.name: each.read_text() for each in sorted(_PROGRAM.glob("*.py")) if not each.name.startswith("test_")}
    metadata = {"name": _MAP, "namespace": MODELS_NAMESPACE}
    apply(lab, [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}])


def service(
    name: str,
    *arguments: str,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    container: Body | None = None,
    memory: str = "64Mi",
) -> Body:
    """An InferenceService with the scripted engine; `container` overrides fields of its container."""
    probe = {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1}
    resources = {"cpu": "20m", "memory": memory}
    engine = {
        "name": "kserve-container",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-B", "/opt/tests/engines/scripted.py", "--host=0.0.0.0", "--port=8080", *arguments],
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": resources, "limits": {"memory": memory}},
        "volumeMounts": [{"name": "program", "mountPath": "/opt/tests", "readOnly": True}],
        "readinessProbe": probe,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **(container or {}),
    }
    names = [each.name for each in sorted(_PROGRAM.glob("*.py")) if not each.name.startswith("test_")]
    files = {"name": _MAP, "items": [{"key": each, "path": f"engines/{each}"} for each in names]}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": MODELS_NAMESPACE,
            "labels": {"networking.kserve.io/visibility": "cluster-local", **(labels or {})},
            "annotations": _SCALED_BY_US if annotations is None else dict(annotations),
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "terminationGracePeriodSeconds": 5,
                "containers": [engine],
                "volumes": [{"name": "program", "configMap": files}],
            }
        },
    }


@contextlib.contextmanager
def scripted(lab: Lab, *services: Body) -> Iterator[None]:
    """These InferenceServices are there; deleted with all they brought at the end."""
    program(lab)
    names = [f"inferenceservice/{each['metadata']['name']}" for each in services]
    try:
        apply(lab, services)
        yield
    finally:
        kubectl(lab, "delete", "-n", MODELS_NAMESPACE, "--ignore-not-found", "--wait=false", *names)


def specification(lab: Lab, name: str) -> Body:
    """What an InferenceService asks for, and the annotations on it."""
    found = get(lab, "inferenceservice", name, "-n", MODELS_NAMESPACE)
    return {"spec": found["spec"], "annotations": found["metadata"].get("annotations", {})}
