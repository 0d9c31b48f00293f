"""A model as an InferenceService: a plain dict for server-side apply with only the fields that the platform owns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmariner.platform.serving import IMPORTED_SCHEME, EngineModel
from llmariner.platform.serving.kserve.adapter_fetch import adapter_parts, adapter_path, is_own_file
from llmariner.platform.serving.local_processes.command_line import (
    ANSWER_CHECK_MIDDLEWARE,
    USAGE_MIDDLEWARE,
    feature_arguments,
    remote_code_arguments,
)
from llmariner.settings import KServeSettings

__all__ = [
    "CREATED_ANNOTATION",
    "ENGINE_CONTAINER",
    "GPU_RESOURCES",
    "INFERENCE_SERVICE_LABEL",
    "MANAGED_BY_LABELS",
    "MODEL_ANNOTATION",
    "PLUGINS_CONFIG_MAP",
    "PRIORITY_LABELS",
    "QUEUE_LABEL",
    "EngineSpec",
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
    "service_name",
]

PLUGINS_CONFIG_MAP = "llmariner-engine-plugins"
"""The ConfigMap with the modules that engines load beside vLLM (`engine_plugins/`)."""
MODEL_ANNOTATION = "llmariner.ai/model"
"""The annotation with a model's id, which may contain characters that object names may not."""
CREATED_ANNOTATION = "llmariner.ai/created"
"""The annotation with `EngineModel.created`, which distinguishes models that had the same id one after another."""
ADAPTERS_OF_ANNOTATION = "llmariner.ai/adapters-of"
"""The annotation with `EngineModel.adapters_of`."""
ENGINE_CONTAINER = "kserve-container"
"""The name of an engine's container."""
INFERENCE_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
"""The label of a model's pods with the name of its InferenceService."""
MANAGED_BY_LABELS = {"app.kubernetes.io/managed-by": "llmariner"}
"""The labels of objects that the platform creates in the models' namespace."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABELS = {"kueue.x-k8s.io/priority-class": "llmariner-serving"}
"""The label that gives serving models priority over jobs and standby engines."""

GPU_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel-gaudi": "habana.ai/gaudi"}
"""The resource of an accelerator; one without entry has no GPUs."""
_RUNTIMES = {"cpu": "vllm-cpu", "nvidia": "vllm-nvidia", "amd": "vllm-amd", "intel-gaudi": "vllm-gaudi"}
_NAME_LIMIT, _LABEL_LIMIT = 40, 63
_GIB = 1 << 30
# More concurrent requests on a CPU engine would only make each slower.
_CAPACITY = {"cpu": 32}
_GPU_CAPACITY = 256
_PLUGINS_PATH = "/opt/llmariner"
_BASE_PATH = "/mnt/models"


def object_name(model: EngineModel, namespace: str) -> str:
    """The name of a model's InferenceService in a namespace: the imported one's, else a slug of the id with a hash."""
    if model.folder.startswith(IMPORTED_SCHEME):
        return model.folder.removeprefix(IMPORTED_SCHEME)
    return service_name(model.id, model.adapters_of, namespace)


def service_name(model_id: str, adapters_of: str | None, namespace: str) -> str:
    """The name of the InferenceService of an engine that the platform makes. `adapters_of`: as in `EngineModel`.

    KServe does not start one whose host name, `NAME-predictor-NAMESPACE`, would have a label of more than 63 characters.
    """
    named = model_id if adapters_of is None else f"{model_id} {adapters_of}"
    digest = hashlib.sha256(named.encode()).hexdigest()[:8]
    limit = min(_NAME_LIMIT, _LABEL_LIMIT - len(f"{deployment_name('')}-{namespace}"))
    slug = re.sub(r"[^a-z0-9]+", "-", model_id.lower()).strip("-")[: max(0, limit - len(f"m--{digest}"))].strip("-")
    # The hash distinguishes ids with the same slug.
    return f"m-{slug}-{digest}"


def deployment_name(name: str) -> str:
    """The name of the Deployment and the Service that KServe creates for an InferenceService in Standard mode."""
    return f"{name}-predictor"


def is_managed(service: dict[str, Any]) -> bool:
    """Whether the platform created this InferenceService; those of others are only scaled, never rewritten."""
    labels = service["metadata"].get("labels", {})
    return all(labels.get(name) == value for name, value in MANAGED_BY_LABELS.items())


def model_id_of(service: dict[str, Any]) -> str:
    """The id of an InferenceService's model: its annotation, else its name."""
    metadata = service["metadata"]
    return str(metadata.get("annotations", {}).get(MODEL_ANNOTATION) or metadata["name"])


def engine_key(service: dict[str, Any]) -> tuple[str, str | None]:
    """The engine key of an InferenceService: its model's id and `EngineModel.adapters_of`."""
    return model_id_of(service), service["metadata"].get("annotations", {}).get(ADAPTERS_OF_ANNOTATION)


def is_same_registration(service: dict[str, Any] | None, model: EngineModel) -> bool:
    """Whether an InferenceService is missing or belongs to this model, not to a deleted one of the same id."""
    annotations = {} if service is None else service["metadata"].get("annotations", {})
    return bool(annotations.get(CREATED_ANNOTATION, str(model.created)) == str(model.created))


def belongs_to_other_model(service: dict[str, Any] | None, model: EngineModel) -> bool:
    """Whether the InferenceService with this model's object name belongs to a different model.

    An object name contains only 32 bits of a hash, so a collision with any other id can be constructed.
    """
    if service is None or model.folder.startswith(IMPORTED_SCHEME):
        return False
    said = MODEL_ANNOTATION in service["metadata"].get("annotations", {})
    return said and engine_key(service) != (model.id, model.adapters_of)


def capacity(settings: KServeSettings) -> int:
    """The concurrent requests of one engine replica."""
    return _CAPACITY.get(settings.accelerator, _GPU_CAPACITY)


def inference_service(
    model: EngineModel, adapters: tuple[EngineModel, ...], settings: KServeSettings, queue: str = ""
) -> dict[str, Any]:
    """The InferenceService of a model with its LoRA adapters, so that a restarted pod serves them too.

    `queue`: the LocalQueue that admits it; "" for none.
    """
    labels = {**MANAGED_BY_LABELS, "networking.kserve.io/visibility": "cluster-local"}
    if queue:
        # Without a priority class jobs would preempt it.
        labels |= {QUEUE_LABEL: queue, **PRIORITY_LABELS}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": object_name(model, settings.namespace),
            "namespace": settings.namespace,
            "labels": labels,
            "annotations": {
                MODEL_ANNOTATION: model.id,
                CREATED_ANNOTATION: str(model.created),
                **({} if model.adapters_of is None else {ADAPTERS_OF_ANNOTATION: model.adapters_of}),
                # A Deployment, not a Knative revision: GPUs need node selectors and tolerations.
                "serving.kserve.io/deploymentMode": "Standard",
                # KServe does not set replicas: the platform wakes and sleeps models through the scale subresource.
                "serving.kserve.io/autoscalerClass": "external",
            },
        },
        "spec": {"predictor": _predictor(model, adapters, settings)},
    }


@dataclass(frozen=True)
class EngineSpec:
    """What a model requires of its engine: a ClusterServingRuntime, resources, arguments after the runtime's own."""

    runtime: str
    resources: dict[str, str]
    arguments: list[str]


def engine_spec(model: EngineModel, adapters: Sequence[EngineModel], settings: KServeSettings) -> EngineSpec:
    """The engine of a managed model with its LoRA adapters."""
    return EngineSpec(_runtime(model, settings), _resources(model, settings), _arguments(model, adapters, settings))


def _predictor(model: EngineModel, adapters: tuple[EngineModel, ...], settings: KServeSettings) -> dict[str, Any]:
    engine = engine_spec(model, adapters, settings)
    own = adapter_parts(object_name(model, settings.namespace), adapters, settings)
    predictor: dict[str, Any] = {
        "minReplicas": max(1, model.replicas),
        "maxReplicas": max(1, model.replicas, model.max_replicas),
        # By default KServe's route ends every stream after 60 seconds.
        "timeout": 3600,
        "automountServiceAccountToken": False,
        # Adapters come by a new start, for which the pool may have no room beside the pod before.
        **({} if model.adapters_of is None else {"deploymentStrategy": {"type": "Recreate"}}),
        # Longer than the runtime's --shutdown-timeout, so that active streams can finish.
        "terminationGracePeriodSeconds": 75,
        "volumes": [{"name": "plugins", "configMap": {"name": PLUGINS_CONFIG_MAP}}, *own.volumes],
        **own.fields,
        "model": {
            "runtime": engine.runtime,
            "modelFormat": {"name": "vLLM", "version": "1"},
            "args": [_escaped(argument) for argument in engine.arguments],
            # The runtimes start vLLM with `python -m`, which imports from the working directory; KServe takes no PYTHONPATH.
            "workingDir": _PLUGINS_PATH,
            "volumeMounts": [{"name": "plugins", "mountPath": _PLUGINS_PATH, "readOnly": True}, *own.mounts],
            "resources": {"requests": engine.resources, "limits": engine.resources},
        },
    }
    if fetched := [each for each in adapters if not is_own_file(each)]:
        uris = [{"uri": model.folder, "mountPath": _BASE_PATH}]
        uris += [{"uri": each.folder, "mountPath": adapter_path(each)} for each in fetched]
        predictor["storageUris"] = uris
    else:
        predictor["model"]["storageUri"] = model.folder
    return predictor


def _arguments(model: EngineModel, adapters: Sequence[EngineModel], settings: KServeSettings) -> list[str]:
    """Arguments after the runtime's. vLLM uses the last of each, so mandatory ones follow the model's."""
    arguments = [f"--max-num-seqs={capacity(settings)}"]
    arguments += ["--runner=pooling", "--dtype=float32"] if model.task == "embed" else feature_arguments(model)
    arguments += model.extra_args
    arguments += [f"--served-model-name={model.name}", f"--middleware={USAGE_MIDDLEWARE}"]
    arguments += [f"--middleware={ANSWER_CHECK_MIDDLEWARE}"] if _hardware(model, settings) == "cpu" else []
    arguments += remote_code_arguments(model)
    if adapters:
        arguments += ["--enable-lora", "--lora-modules"]
        arguments += [f"{each.name}={adapter_path(each)}" for each in adapters]
    return arguments


def _escaped(argument: str) -> str:
    """An argument escaped for the pod: the kubelet expands `$(NAME)`, and KServe reads `{{` as a template."""
    return argument.replace("$", "$$").replace("{{", "{{`{{`}}")


def _runtime(model: EngineModel, settings: KServeSettings) -> str:
    """The runtime for the model's hardware; settings may override the default."""
    hardware = _hardware(model, settings)
    return settings.runtimes.get(hardware, _RUNTIMES[hardware])


def _hardware(model: EngineModel, settings: KServeSettings) -> str:
    """The installation's accelerator, unless the model asks for none."""
    return settings.accelerator if model.gpus else "cpu"


def _resources(model: EngineModel, settings: KServeSettings) -> dict[str, str]:
    needed = model.size_bytes * 1.3 + 3 * _GIB if model.size_bytes else 0.0
    memory = f"{-int(-needed // _GIB)}Gi" if needed else settings.memory
    resources = {"cpu": settings.cpu, "memory": memory}
    if model.gpus and settings.accelerator in GPU_RESOURCES:
        resources[GPU_RESOURCES[settings.accelerator]] = str(model.gpus)
    return resources
