"""A model as an InferenceService. tests/serving validates it by upstream's schemas."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmariner.platform.serving import IMPORTED_SCHEME, EngineModel
from llmariner.platform.serving.kserve.objects import capacity, inference_service, object_name
from llmariner.platform.serving.kserve.queues import queue_name
from llmariner.settings import KServeSettings

CPU = KServeSettings()
NVIDIA = KServeSettings(accelerator="nvidia")


def model(model_id: str = "tiny", **fields: object) -> EngineModel:
    return EngineModel(**{"id": model_id, "folder": "hf://org/tiny", "task": "generate", "size_bytes": 0, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("model_id", ["tiny", "meta/Llama-3.1:8B", "ft:base:suffix", "a" * 200, "9", "-", "x.y_z"])
@pytest.mark.parametrize("namespace", ["models", CPU.namespace, "models-of-the-research-department"])
def test_every_id_has_a_valid_host_name(model_id: str, namespace: str) -> None:
    name = object_name(model(model_id), namespace)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 40
    assert len(f"{name}-predictor-{namespace}") <= 63, "KServe starts no other"


def test_similar_ids_have_different_names() -> None:
    assert len({object_name(model(each), CPU.namespace) for each in ("a/b", "a-b", "A-B", "a.b")}) == 4


@pytest.mark.parametrize("fields", [{}, {"gpus": 1, "trusted": True, "extra_args": ("--trust-remote-code",)}])
def test_an_engine_has_no_kubernetes_token_and_no_external_route(fields: dict[str, Any]) -> None:
    tuned = model("ft:tiny:x", folder="s3://bucket/x", base="tiny")
    made = inference_service(model(**fields), (tuned,), NVIDIA)
    predictor = made["spec"]["predictor"]
    assert predictor["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in predictor
    assert made["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"


def test_an_imported_model_keeps_its_name() -> None:
    assert object_name(model(folder=f"{IMPORTED_SCHEME}theirs"), CPU.namespace) == "theirs"


def test_the_runtime_and_its_resources_depend_on_the_hardware() -> None:
    on_cpu = inference_service(model(gpus=0), (), NVIDIA)["spec"]["predictor"]["model"]
    assert on_cpu["runtime"] == "vllm-cpu"
    assert on_cpu["resources"]["limits"] == {"cpu": "4", "memory": "8Gi"}
    on_gpu = inference_service(model(gpus=2, size_bytes=10 << 30), (), NVIDIA)["spec"]["predictor"]["model"]
    assert on_gpu["runtime"] == "vllm-nvidia"
    assert on_gpu["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "2"}
    assert inference_service(model(gpus=2), (), CPU)["spec"]["predictor"]["model"]["runtime"] == "vllm-cpu"
    named = KServeSettings(runtimes={"cpu": "house-cpu"})
    assert inference_service(model(), (), named)["spec"]["predictor"]["model"]["runtime"] == "house-cpu"
    assert (capacity(CPU), capacity(NVIDIA)) == (32, 256)


def test_a_queue_is_kueues_label() -> None:
    labels = inference_service(model(), (), NVIDIA, "models")["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "models"
    assert labels["kueue.x-k8s.io/priority-class"] == "llmariner-serving"
    assert not [name for name in inference_service(model(), (), NVIDIA)["metadata"]["labels"] if "kueue" in name]


@pytest.mark.parametrize("project", ["proj_0hogmkptmblqf65qy9vtdt", "a" * 64, "A_b", "_"])
def test_a_project_has_a_queue_in_each_pool(project: str) -> None:
    names = [queue_name("cpu", project), queue_name("a-pool-of-a-very-long-name", project), queue_name("cpu", "other")]
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63 for name in names)
    assert len(set(names)) == 3


def test_adapters_are_stored_beside_the_weights_for_new_pods() -> None:
    tuned = model("ft:tiny:x", folder="s3://bucket/x", base="tiny")
    predictor = inference_service(model(), (tuned,), CPU)["spec"]["predictor"]
    base, adapter = predictor["storageUris"]
    assert base == {"uri": "hf://org/tiny", "mountPath": "/mnt/models"}
    assert adapter["uri"] == "s3://bucket/x"
    assert "storageUri" not in predictor["model"]
    assert predictor["model"]["args"][-2:] == ["--lora-modules", f"ft:tiny:x={adapter['mountPath']}"]


def arguments_of(served: EngineModel) -> list[str]:
    found: list[str] = inference_service(served, (), CPU)["spec"]["predictor"]["model"]["args"]
    return found


def test_a_models_arguments_come_after_defaults_and_before_required_ones() -> None:
    own = ("--max-num-seqs=9", "--served-model-name=other", "--middleware=evil.Tap", "--trust-remote-code")
    arguments = arguments_of(model(extra_args=own))
    assert arguments[0] == "--max-num-seqs=32"
    assert tuple(arguments[-8:-4]) == own
    assert arguments[-4:] == [
        "--served-model-name=tiny",
        "--middleware=request_usage.RequestUsage",
        "--middleware=expected_answer.ExpectedAnswer",
        "--no-trust-remote-code",
    ]
    trusted = arguments_of(model(extra_args=("--trust_remote_code",), trusted=True))
    assert "--no-trust-remote-code" not in trusted


def test_answers_are_checked_where_a_cpu_computes_them() -> None:
    check = "--middleware=expected_answer.ExpectedAnswer"

    def checked(served: EngineModel, settings: KServeSettings) -> bool:
        found: list[str] = inference_service(served, (), settings)["spec"]["predictor"]["model"]["args"]
        return check in found

    assert checked(model(), NVIDIA)
    assert checked(model(gpus=1), CPU)
    assert not checked(model(gpus=1), NVIDIA)


def test_arguments_are_escaped_for_kubelet_and_kserve() -> None:
    arguments = arguments_of(model(extra_args=("--x=$(HF_TOKEN)", '--y={{printf "%999d" 1}}')))
    assert "--x=$$(HF_TOKEN)" in arguments
    assert '--y={{`{{`}}printf "%999d" 1}}' in arguments


def test_an_embedding_model_uses_the_pooling_runner() -> None:
    embedding = inference_service(model(task="embed"), (), CPU)["spec"]["predictor"]["model"]["args"]
    assert "--runner=pooling" in embedding
