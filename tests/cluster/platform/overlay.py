"""The test overlay, fitted to this machine: engines from its own engine environment, models from its own folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from llmariner import __version__
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.daemon import engine_environment

__all__ = [
    "CHECKOUT",
    "ENGINE_CPU",
    "MODELS",
    "NOTEBOOK_DOMAIN",
    "NOTEBOOK_IMAGE",
    "NOTEBOOK_VOLUMES",
    "engine_runtime",
    "over",
    "weights",
    "write",
]

CHECKOUT = Path(__file__).parents[3]
MODELS = "models"
"""The volume claim, in the namespaces of models and of jobs, that holds this machine's models."""

Body = dict[str, Any]

_NAMESPACES = ("llmariner-models", "llmariner-jobs")
_ENGINE = f"dev.local/llmariner/vllm-cpu-local:{__version__}"
NOTEBOOK_IMAGE = f"dev.local/llmariner/notebook:{__version__}"
NOTEBOOK_DOMAIN = "notebooks.llmariner.test"
NOTEBOOK_VOLUMES = "notebooks"
"""The storage class of their volumes. A test makes one for each: the cluster has nothing that would."""
ENGINE_CPU = "600m"
_STANDBY_ENGINE = f"dev.local/llmariner/engine:{__version__}"


def write(folder: Path) -> Path:
    """Write the kustomization into a folder and give its path."""
    folder.mkdir(parents=True, exist_ok=True)
    base = os.path.relpath(CHECKOUT / "manifests" / "overlays" / "test", folder)
    (folder / "volumes.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": _volumes()}))
    kustomization = {
        "resources": [base, "volumes.json"],
        "components": _components(folder, "notebook-hosts", "notebook-hosts/plain-http"),
        "configMapGenerator": [
            {
                "name": "llmariner-settings",
                "namespace": "llmariner",
                "behavior": "merge",
                "literals": [
                    # Two engines or jobs fill the pool by their memory, and leave cores to functions that are awake.
                    f"LLMARINER_ENGINE_CPU={ENGINE_CPU}",
                    "LLMARINER_ENGINE_MEMORY=4Gi",
                    "LLMARINER_IDLE_SECONDS=60",
                    f"LLMARINER_JOB_IMAGES=python={_STANDBY_ENGINE}",
                    "LLMARINER_JOB_MEMORY_GIB=3.5",
                    "LLMARINER_JOB_CPU=500m",
                    f"LLMARINER_TRAINING_IMAGE={_STANDBY_ENGINE}",
                    f"LLMARINER_NOTEBOOK_IMAGES=jupyter-lab-base={NOTEBOOK_IMAGE}",
                    f"LLMARINER_NOTEBOOK_STORAGE_CLASS={NOTEBOOK_VOLUMES}",
                    f"LLMARINER_NOTEBOOK_URL=http://*.{NOTEBOOK_DOMAIN}",
                    f"LLMARINER_TRAINING_VOLUMES={_mounts()}",
                ],
                "options": {"disableNameSuffixHash": True},
            }
        ],
        "patches": [
            {
                "target": {"kind": "ClusterServingRuntime", "name": "vllm-cpu"},
                "patch": json.dumps(_engine_of_this_machine()),
            },
            # Queries to the node's address are answered: no name server of ours is asked outside the cluster.
            {"target": {"kind": "Gateway"}, "patch": json.dumps([_remove("/spec/listeners/0/hostname")])},
            {
                "target": {"kind": "HTTPRoute", "labelSelector": "app.kubernetes.io/name!=notebook-hosts"},
                "patch": json.dumps([_remove("/spec/hostnames"), _added("/spec/parentRefs/0/sectionName", "api")]),
            },
            # Room for two engines. The overlay below has copied its own settings into the pool already.
            {"target": {"kind": "ClusterQueue", "name": "llmariner-cpu"}, "patch": json.dumps([_pool_memory("8Gi")])},
            {"target": {"kind": "StatefulSet", "name": "postgres"}, "patch": json.dumps(_known_user())},
        ],
    }
    return _kustomized(folder, kustomization)


def over(lab_folder: Path, name: str, *components: str, **more: Any) -> Path:
    """As `write`, a kustomization that stands on the test overlay: with components of manifests/, and fields of its own."""
    folder = lab_folder / name
    folder.mkdir(parents=True, exist_ok=True)
    added = _components(folder, *components)
    below = os.path.relpath(write(lab_folder / "overlay"), folder)
    return _kustomized(folder, {"resources": [below], **({"components": added} if added else {}), **more})


def _components(folder: Path, *names: str) -> list[str]:
    return [os.path.relpath(CHECKOUT / "manifests" / "components" / each, folder) for each in names]


def _kustomized(folder: Path, fields: Body) -> Path:
    kind = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    (folder / "kustomization.yaml").write_text(json.dumps({**kind, **fields}, indent=1))
    return folder


def engine_runtime(name: str) -> Body:
    """The ClusterServingRuntime of engines on CPUs under a name, fitted to this machine."""
    runtime: Body = yaml.safe_load((CHECKOUT / "kserve/cpu/vllm-cpu.yaml").read_text())
    runtime["metadata"]["name"] = name
    for operation in _engine_of_this_machine():
        _change(runtime, operation["path"].split("/")[1:], operation["value"])
    return runtime


def _change(body: Any, path: list[str], value: Any) -> None:
    """Apply an operation of a JSON patch, `add` or `replace`."""
    *parents, last = path
    for each in parents:
        body = body[int(each)] if isinstance(body, list) else body[each]
    if last == "-":
        body.append(value)
    else:
        body[last] = value


def _engine_of_this_machine() -> list[Body]:
    """The runtime's container runs vLLM out of the engine environment, which is mounted at its own path."""
    container, folders = "/spec/containers/0", _folders()
    command = [f"{folders['engine']}/venv/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", "/mnt/models"]
    variables = {"TORCH_COMPILE_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    changes: list[Body] = [
        {"op": "replace", "path": f"{container}/image", "value": _ENGINE},
        {"op": "replace", "path": f"{container}/command", "value": command},
        *(_added(f"{container}/args/-", each) for each in ("--enforce-eager", "--kv-cache-memory-bytes=268435456")),
        *(_added(f"{container}/env/-", {"name": name, "value": value}) for name, value in variables.items()),
    ]
    for name in ("engine", "python"):
        mount = {"name": name, "mountPath": str(folders[name]), "readOnly": True}
        claim = {"name": name, "persistentVolumeClaim": {"claimName": name, "readOnly": True}}
        changes += [_added(f"{container}/volumeMounts/-", mount), _added("/spec/volumes/-", claim)]
    return changes


def _mounts() -> str:
    """The engine environment at its own path in pods that train."""
    return ",".join(f"{name}={folder}" for name, folder in _folders().items() if name != MODELS)


def weights(model: str) -> str:
    """The folder of one of this machine's models in the volume `MODELS`."""
    return next(_folders()[MODELS].glob(f"{model}-*")).name


def _folders() -> dict[str, Path]:
    """What engines need of this machine. As volumes, not as paths of the node, which the namespace's pods may not name."""
    settings = StandaloneSettings.load(environment())
    engine = engine_environment(settings)
    # The environment's interpreter is a link to the one it was made with.
    return {
        MODELS: settings.cache / "models",
        "engine": engine.folder,
        "python": engine.python.resolve().parents[1],
    }


def _volumes() -> list[Body]:
    """Each folder as a volume that is there already, and the claim on it."""
    return [
        each
        for namespace in _NAMESPACES
        for name, folder in _folders().items()
        for each in _volume(name, folder, namespace)
    ]


def _volume(name: str, folder: Path, namespace: str) -> list[Body]:
    volume = f"lab-{namespace.removeprefix('llmariner-')}-{name}"
    size = {"storage": "10Gi"}
    common: Body = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    path = {"path": str(folder), "type": "Directory"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": volume},
            "spec": {**common, "capacity": size, "hostPath": path},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {**common, "volumeName": volume, "resources": {"requests": size}},
        },
    ]


def _known_user() -> list[Body]:
    """The image of this machine's PostgreSQL has one named user besides root."""
    path = "/spec/template/spec/securityContext"
    return [
        {"op": "replace", "path": f"{path}/{name}", "value": 65532} for name in ("runAsUser", "runAsGroup", "fsGroup")
    ]


def _pool_memory(quota: str) -> Body:
    memory = "/spec/resourceGroups/0/flavors/0/resources/1"
    return {"op": "replace", "path": f"{memory}/nominalQuota", "value": quota}


def _added(path: str, value: Any) -> Body:
    return {"op": "add", "path": path, "value": value}


def _remove(path: str) -> Body:
    return {"op": "remove", "path": path}
