"""A model of ours as an InferenceService: a plain dict for server-side apply, with the fields we own and no others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmariner.platform.serving import IMPORTED_SCHEME, EngineModel
from llmariner.platform.serving.local_processes.command_line import (
    ANSWER_CHECK_MIDDLEWARE,
    FEATURE_ARGUMENTS,
    USAGE_MIDDLEWARE,
    remote_code_arguments,
)
from llmariner.settings import KServeSettings

__all__ = [
    "CREATED_ANNOTATION",
    "ENGINE_CONTAINER",
    "INFERENCE_SERVICE_LABEL",
    "MANAGED_BY_LABELS",
    "MODEL_ANNOTATION",
    "PLUGINS_CONFIG_MAP",
    "PRIORITY_LABELS",
    "QUEUE_LABEL",
    "EngineSpec",
    "adapter_path",
    "belongs_to_other_model",
    "capacity",
    "deployment_name",
    "engine_key",
    "engine_spec",
    "inference_service",
    "is_managed",
    "is_same_registration",
    "model_id_of",
    "object_name",
]

PLUGINS_CONFIG_MAP = "llmariner-engine-plugins"
"""The ConfigMap with what engines load beside vLLM (`engine_plugins/`)."""
MODEL_ANNOTATION = "llmariner.ai/model"
"""The annotation that holds a model's id, which may have characters that no object's name may have."""
CREATED_ANNOTATION = "llmariner.ai/created"
"""The annotation that says which of the models that had this id, one after another: `EngineModel.created`."""
ADAPTERS_OF_ANNOTATION = "llmariner.ai/adapters-of"
"""The annotation that holds `EngineModel.adapters_of`."""
ENGINE_CONTAINER = "kserve-container"
"""The name of an engine's container."""
INFERENCE_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
"""The label of a model's pods: the name of its InferenceService."""
MANAGED_BY_LABELS = {"app.kubernetes.io/managed-by": "llmariner"}
"""The labels of what we make in the models' namespace."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABELS = {"kueue.x-k8s.io/priority-class": "llmariner-serving"}
"""The label by which a model that answers requests comes before jobs, and before engines that stand by."""

_GPU_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel-gaudi": "habana.ai/gaudi"}
_RUNTIMES = {"cpu": "vllm-cpu", "nvidia": "vllm-nvidia", "amd": "vllm-amd", "intel-gaudi": "vllm-gaudi"}
_NAME_LIMIT = 40
_GIB = 1 << 30
# A CPU engine works on fewer requests at once; more of them would only make each wait longer.
_CAPACITY = {"cpu": 32}
_GPU_CAPACITY = 256
_PLUGINS_PATH = "/opt/llmariner"
_BASE_PATH, _ADAPTER_PATH = "/mnt/models", "/mnt/adapters"


def object_name(model: EngineModel) -> str:
    """The name of a model's InferenceService: its own where it was adopted, else made of the id and a hash of it."""
    if model.folder.startswith(IMPORTED_SCHEME):
        return model.folder.removeprefix(IMPORTED_SCHEME)
    named = model.id if model.adapters_of is None else f"{model.id} {model.adapters_of}"
    digest = hashlib.sha256(named.encode()).hexdigest()[:8]
    # A host name is made of it, with parts around it; the hash tells apart what lower case and dashes make alike.
    slug = re.sub(r"[^a-z0-9]+", "-", model.id.lower()).strip("-")[: _NAME_LIMIT - 11].strip("-")
    return f"m-{slug}-{digest}"


def deployment_name(name: str) -> str:
    """The Deployment and the Service that KServe makes of an InferenceService in Standard mode."""
    return f"{name}-predictor"


def is_managed(service: dict[str, Any]) -> bool:
    """Whether the platform made this InferenceService; others are woken and put to sleep, and never rewritten."""
    labels = service["metadata"].get("labels", {})
    return all(labels.get(name) == value for name, value in MANAGED_BY_LABELS.items())


def model_id_of(service: dict[str, Any]) -> str:
    """The id of an InferenceService's model: what its annotation says, else its name."""
    metadata = service["metadata"]
    return str(metadata.get("annotations", {}).get(MODEL_ANNOTATION) or metadata["name"])


def engine_key(service: dict[str, Any]) -> tuple[str, str | None]:
    """Which engine an InferenceService is: its model's id, and whose adapters alone it serves."""
    return model_id_of(service), service["metadata"].get("annotations", {}).get(ADAPTERS_OF_ANNOTATION)


def is_same_registration(service: dict[str, Any] | None, model: EngineModel) -> bool:
    """Whether an InferenceService is not one of a model that had this id before and was deleted."""
    annotations = {} if service is None else service["metadata"].get("annotations", {})
    return bool(annotations.get(CREATED_ANNOTATION, str(model.created)) == str(model.created))


def belongs_to_other_model(service: dict[str, Any] | None, model: EngineModel) -> bool:
    """Whether the InferenceService of a model's name is a different model's.

    An object's name holds 32 bits of a hash: who may choose an id finds one that comes to the name of any other.
    """
    if service is None or model.folder.startswith(IMPORTED_SCHEME):
        return False
    said = MODEL_ANNOTATION in service["metadata"].get("annotations", {})
    return said and engine_key(service) != (model.id, model.adapters_of)


def capacity(settings: KServeSettings) -> int:
    """Requests that one engine works on at once."""
    return _CAPACITY.get(settings.accelerator, _GPU_CAPACITY)


def inference_service(
    model: EngineModel, adapters: tuple[EngineModel, ...], settings: KServeSettings, queue: str = ""
) -> dict[str, Any]:
    """The object, with the model's adapters beside it, so that a pod that is started again has them too.

    `queue`: the LocalQueue in which it waits for quota; "": it waits for none.
    """
    labels = {**MANAGED_BY_LABELS, "networking.kserve.io/visibility": "cluster-local"}
    if queue:
        # Without a class it would yield to jobs.
        labels |= {QUEUE_LABEL: queue, **PRIORITY_LABELS}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": object_name(model),
            "namespace": settings.namespace,
            "labels": labels,
            "annotations": {
                MODEL_ANNOTATION: model.id,
                CREATED_ANNOTATION: str(model.created),
                **({} if model.adapters_of is None else {ADAPTERS_OF_ANNOTATION: model.adapters_of}),
                # A Deployment, not a Knative revision: GPUs need node selectors and tolerations.
                "serving.kserve.io/deploymentMode": "Standard",
                # KServe leaves the number of replicas alone: we wake and put to sleep by the scale subresource.
                "serving.kserve.io/autoscalerClass": "external",
            },
        },
        "spec": {"predictor": _predictor(model, adapters, settings)},
    }


@dataclass(frozen=True)
class EngineSpec:
    """What a model asks of its engine: a ClusterServingRuntime, resources, and arguments after the runtime's own."""

    runtime: str
    resources: dict[str, str]
    arguments: list[str]


def engine_spec(model: EngineModel, adapters: Sequence[EngineModel], settings: KServeSettings) -> EngineSpec:
    """Of one of our models, with its adapters."""
    return EngineSpec(_runtime(model, settings), _resources(model, settings), _arguments(model, adapters, settings))


def _predictor(model: EngineModel, adapters: tuple[EngineModel, ...], settings: KServeSettings) -> dict[str, Any]:
    engine = engine_spec(model, adapters, settings)
    predictor: dict[str, Any] = {
        "minReplicas": max(1, model.replicas),
        "maxReplicas": max(1, model.replicas, model.max_replicas),
        # Unsaid, KServe's own route cuts every stream after 60 seconds.
        "timeout": 3600,
        "automountServiceAccountToken": False,
        # Longer than the runtime's --shutdown-timeout, so that streams under way may end.
        "terminationGracePeriodSeconds": 75,
        "volumes": [{"name": "plugins", "configMap": {"name": PLUGINS_CONFIG_MAP}}],
        "model": {
            "runtime": engine.runtime,
            "modelFormat": {"name": "vLLM", "version": "1"},
            "args": [_escaped(argument) for argument in engine.arguments],
            # Our runtimes run vLLM by `python -m`, which looks there; KServe takes no PYTHONPATH.
            "workingDir": _PLUGINS_PATH,
            "volumeMounts": [{"name": "plugins", "mountPath": _PLUGINS_PATH, "readOnly": True}],
            "resources": {"requests": engine.resources, "limits": engine.resources},
        },
    }
    if adapters:
        uris = [{"uri": model.folder, "mountPath": _BASE_PATH}]
        uris += [{"uri": each.folder, "mountPath": adapter_path(each)} for each in adapters]
        predictor["storageUris"] = uris
    else:
        predictor["model"]["storageUri"] = model.folder
    return predictor


def _arguments(model: EngineModel, adapters: Sequence[EngineModel], settings: KServeSettings) -> list[str]:
    """After the runtime's own. vLLM takes the last of each: what must hold comes after the model's own."""
    arguments = [f"--max-num-seqs={capacity(settings)}"]
    arguments += ["--runner=pooling", "--dtype=float32"] if model.task == "embed" else FEATURE_ARGUMENTS
    arguments += model.extra_args
    arguments += [f"--served-model-name={model.name}", f"--middleware={USAGE_MIDDLEWARE}"]
    arguments += [f"--middleware={ANSWER_CHECK_MIDDLEWARE}"] if _hardware(model, settings) == "cpu" else []
    arguments += remote_code_arguments(model)
    if adapters:
        arguments += ["--enable-lora", "--lora-modules"]
        arguments += [f"{each.name}={adapter_path(each)}" for each in adapters]
    return arguments


def _escaped(argument: str) -> str:
    """An argument as a container gets it unchanged: the kubelet expands `$(NAME)`, and KServe reads `{{` as a template."""
    return argument.replace("$", "$$").replace("{{", "{{`{{`}}")


def _runtime(model: EngineModel, settings: KServeSettings) -> str:
    """The installation may name its own runtimes."""
    hardware = _hardware(model, settings)
    return settings.runtimes.get(hardware, _RUNTIMES[hardware])


def _hardware(model: EngineModel, settings: KServeSettings) -> str:
    """The installation's accelerator, unless the model asks for none."""
    return settings.accelerator if model.gpus else "cpu"


def _resources(model: EngineModel, settings: KServeSettings) -> dict[str, str]:
    needed = model.size_bytes * 1.3 + 3 * _GIB if model.size_bytes else 0.0
    memory = f"{-int(-needed // _GIB)}Gi" if needed else settings.memory
    resources = {"cpu": settings.cpu, "memory": memory}
    if model.gpus and settings.accelerator in _GPU_RESOURCES:
        resources[_GPU_RESOURCES[settings.accelerator]] = str(model.gpus)
    return resources


def adapter_path(adapter: EngineModel) -> str:
    """Where an engine finds an adapter, in a pod that KServe brings the weights to."""
    return f"{_ADAPTER_PATH}/{hashlib.sha256(adapter.id.encode()).hexdigest()[:12]}"
