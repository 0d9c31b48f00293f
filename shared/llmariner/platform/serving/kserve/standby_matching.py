"""Whether a standby pod can serve a model as the model's own pod would, and with which arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmariner.platform.kube.quantities import parse_quantity
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.adapter_fetch import adapter_path
from llmariner.platform.serving.kserve.objects import (
    ENGINE_CONTAINER,
    INFERENCE_SERVICE_LABEL,
    EngineSpec,
    object_name,
)
from llmariner.platform.serving.kserve.phases import is_terminating

__all__ = ["Match", "match"]

Body = dict[str, Any]

_CLAIM = "pvc://"


@dataclass(frozen=True)
class Match:
    """A standby pod can serve a model with these `arguments` of `vllm`."""

    arguments: list[str]


def match(
    pod: Body, model: EngineModel, adapters: Sequence[EngineModel], wanted: EngineSpec, runtime: Body
) -> Match | None:
    """How the pod can serve the model; None if it can't.

    The pod must not be reserved, must be warm and never have failed, must have the resources that the model requests, and
    must mount the volume claims with the weights of the model and its adapters, since a running pod gets no volume.
    `runtime`: the ClusterServingRuntime that the pod was created for.
    """
    container = _engine_container(pod["spec"]["containers"])
    if (
        INFERENCE_SERVICE_LABEL in pod["metadata"]["labels"]
        or container is None
        or not _is_warm(pod)
        or not _has_resources(container, wanted.resources)
    ):
        return None
    if any("$" in each or "{{" in each for each in wanted.arguments):
        return None  # the Deployment has them escaped, so a comparison with the pod would fail
    folders = [_mounted_path(pod, container, each.folder) for each in (model, *adapters)]
    base, *adapter_folders = folders
    if base is None or None in adapter_folders:
        return None
    local_paths = {adapter_path(each): str(folder) for each, folder in zip(adapters, adapter_folders, strict=True)}
    arguments = [_with_local_path(each, local_paths) for each in wanted.arguments]
    inherited = (_engine_container(runtime["spec"]["containers"]) or {}).get("args", ())
    inherited = [each.replace("{{.Name}}", object_name(model, pod["metadata"]["namespace"])) for each in inherited]
    return Match(["serve", base, *inherited, *arguments])


def _is_warm(pod: Body) -> bool:
    """Whether its startup probe passed (vLLM is imported) and no container has restarted."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return (
        bool(statuses)
        and not is_terminating(pod)
        and bool(pod["status"].get("podIP"))
        and all(each.get("started") and not each.get("restartCount") for each in statuses)
    )


def _has_resources(container: Body, required: Body) -> bool:
    limits = container.get("resources", {}).get("limits", {})
    return all(parse_quantity(limits.get(name, "0")) >= parse_quantity(value) for name, value in required.items())


def _mounted_path(pod: Body, container: Body, uri: str) -> str | None:
    """The path in the container of a storage URI's files, if the pod mounts its claim; else None."""
    claim, _, path = uri.removeprefix(_CLAIM).partition("/")
    if not uri.startswith(_CLAIM):
        return None
    for volume in pod["spec"].get("volumes", ()):
        if volume.get("persistentVolumeClaim", {}).get("claimName") == claim:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] == volume["name"] and not mount.get("subPath"):
                    return f"{mount['mountPath'].rstrip('/')}/{path}".rstrip("/")
    return None


def _with_local_path(argument: str, local_paths: dict[str, str]) -> str:
    """An argument `adapter=path` with the path inside this pod."""
    name, sign, path = argument.rpartition("=")
    return f"{name}{sign}{local_paths[path]}" if path in local_paths else argument


def _engine_container(containers: Sequence[Body]) -> Body | None:
    return next((each for each in containers if each["name"] == ENGINE_CONTAINER), None)
