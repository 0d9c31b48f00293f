"""The platform with engines that stand by, added as an operator adds them: the component, and what is of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmariner import __version__
from llmariner.manifests.installation import MODELS_NAMESPACE, NAMESPACE

from ...lab.kubectl import get, kubectl
from ...lab.places import Lab
from ...lab.wait import until
from ...platform.overlay import ENGINE_CPU, over, write

__all__ = ["DEPLOYMENT", "STANDBY_SELECTOR", "add", "remove", "warm_pods"]

DEPLOYMENT = "standby-engine-cpu"
STANDBY_SELECTOR = "llmariner.ai/standby=vllm-cpu"

_ENGINE = f"dev.local/llmariner/engine:{__version__}"
_JOB_IMAGE = "llmariner/function-api-cluster-database"

Body = dict[str, Any]


def add(lab: Lab) -> None:
    """One pod that stands by, warm."""
    kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", _written(lab), seconds=300)
    until("the function that serves models knows of them", lambda: _unready(lab), seconds=180, pause=1)
    until("an engine stands by", lambda: None if warm_pods(lab) else "none is warm", seconds=300, pause=1)


def remove(lab: Lab) -> None:
    """The platform without them."""
    kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", write(lab.folder / "overlay"), seconds=300)
    for namespace, names in _ADDED.items():
        kubectl(lab, "delete", "-n", namespace, "--ignore-not-found", "--wait=false", *names)


def warm_pods(lab: Lab) -> list[Body]:
    """The pods that could take a model now."""
    pods = get(lab, "pods", "-n", MODELS_NAMESPACE, "-l", STANDBY_SELECTOR)["items"]
    return [pod for pod in pods if any(each.get("started") for each in pod["status"].get("containerStatuses", ()))]


_ADDED = {
    MODELS_NAMESPACE: (
        f"deployment/{DEPLOYMENT}",
        "networkpolicy/standby-engine",
        "role/standby-token",
        "rolebinding/standby-token",
        "secret/llmariner-standby",
    ),
    NAMESPACE: (
        "networkpolicy/standby-token",
        "role/standby-token",
        "rolebinding/standby-token",
        "serviceaccount/standby-token",
        f"job/standby-token-{__version__.replace('.', '-')}",
        "secret/llmariner-standby",
    ),
}


def _unready(lab: Lab) -> str | None:
    service = get(lab, "services.serving.knative.dev", "internal-gateway", "-n", NAMESPACE)
    env = service["spec"]["template"]["spec"]["containers"][0]["env"]
    if not any(each["name"] == "LLMARINER_STANDBY_TOKEN" for each in env):
        return "it has not learned it"
    status = service["status"]
    if status.get("observedGeneration") != service["metadata"]["generation"]:
        return "not seen yet"
    ready = [each for each in status["conditions"] if each["type"] == "Ready"]
    return None if ready and ready[0]["status"] == "True" else "its revision is not ready"


def _written(lab: Lab) -> Path:
    runtime = _runtime(write(lab.folder / "overlay"))
    container = "/spec/template/spec/containers/0"
    resources = {"cpu": ENGINE_CPU, "memory": "4Gi"}
    changes: list[Body] = [
        {"op": "replace", "path": f"{container}/image", "value": _ENGINE},
        {"op": "replace", "path": f"{container}/resources", "value": {"requests": resources, "limits": resources}},
    ]
    for name, mount in runtime.items():
        claim = {"name": name, "persistentVolumeClaim": {"claimName": name, "readOnly": True}}
        changes.append({"op": "add", "path": f"{container}/volumeMounts/-", "value": mount})
        changes.append({"op": "add", "path": "/spec/template/spec/volumes/-", "value": claim})
    return over(
        lab.folder,
        "overlay-standby",
        "standby-engine",
        images=[{"name": _JOB_IMAGE, "newName": f"dev.local/{_JOB_IMAGE}"}],
        patches=[{"target": {"kind": "Deployment", "name": DEPLOYMENT}, "patch": json.dumps(changes)}],
    )


def _runtime(overlay: Path) -> dict[str, Body]:
    """The mounts of this machine's engine environment, as the overlay gives them to the runtime."""
    for patch in json.loads((overlay / "kustomization.yaml").read_text())["patches"]:
        if patch["target"].get("kind") == "ClusterServingRuntime":
            values = [each["value"] for each in json.loads(patch["patch"]) if each["path"].endswith("volumeMounts/-")]
            return {each["name"]: each for each in values}
    raise AssertionError("the overlay does not fit the runtime to this machine")
