"""Example objects of these tests."""

from __future__ import annotations

from typing import Any

__all__ = ["config_map", "deployment", "inference_service"]

Body = dict[str, Any]


def config_map(namespace: str, name: str = "settings", labels: dict[str, str] | None = None, **data: str) -> Body:
    """The plainest kind there is."""
    metadata: Body = {"name": name, "namespace": namespace, **({"labels": labels} if labels else {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def deployment(namespace: str, name: str = "engine") -> Body:
    """Of no pods, so that nothing is started where a controller listens."""
    container = {"name": "engine", "image": "example.org/engine:1"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    }


def inference_service(namespace: str, name: str = "tiny", **predictor: Any) -> Body:
    """A model of the platform, asleep."""
    model = {"modelFormat": {"name": "vLLM"}, "storageUri": "hf://meta/tiny"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"predictor": {"minReplicas": 0, "model": model, **predictor}},
    }
