"""The serving runtimes: one per engine and hardware, pinned, bounded, and never selected automatically."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]
KSERVE = CHECKOUT / "kserve"
DEVICES = {"cpu": None, "nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel-gaudi": "habana.ai/gaudi"}
RUNTIMES = {
    "vllm-cpu": "cpu",
    "ollama-cpu": "cpu",
    "vllm-nvidia": "nvidia",
    "sglang-nvidia": "nvidia",
    "triton-nvidia": "nvidia",
    "nim-nvidia": "nvidia",
    "vllm-amd": "amd",
    "vllm-gaudi": "intel-gaudi",
}
VLLM = [name for name in RUNTIMES if name.startswith("vllm-")]
FORMATS = {"vllm": "vLLM", "sglang": "SGLang", "triton": "triton", "nim": "nim", "ollama": "ollama"}


def read(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load(path.read_text())
    return body


def load(name: str) -> dict[str, Any]:
    return read(KSERVE / RUNTIMES[name] / f"{name}.yaml")


def model() -> dict[str, Any]:
    return read(KSERVE / "templates/inference-service.yaml")


def engine(name: str) -> dict[str, Any]:
    (found,) = load(name)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_every_file_is_tested() -> None:
    assert {path.stem: path.parent.name for path in KSERVE.glob("*/*-*.yaml")} == {
        **RUNTIMES,
        "inference-service": "templates",
        "scaled-object": "templates",
        "horizontal-pod-autoscaler": "templates",
    }


@pytest.mark.parametrize("hardware", DEVICES)
def test_engines_of_one_hardware_are_installed_by_one_component(hardware: str) -> None:
    here = [f"{name}.yaml" for name, of in RUNTIMES.items() if of == hardware]
    assert read(KSERVE / hardware / "kustomization.yaml")["resources"] == sorted(here)
    component = CHECKOUT / "manifests/components" / hardware
    (installed,) = read(component / "kustomization.yaml")["resources"]
    assert (component / installed).resolve() == KSERVE / hardware


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_runtime_is_admitted(name: str, schemas: Schemas) -> None:
    assert schemas.faults(load(name)) == []


@pytest.mark.parametrize("path", sorted(KSERVE.glob("templates/*.yaml")), ids=lambda path: str(path.stem))
def test_the_template_is_admitted(path: Path, schemas: Schemas) -> None:
    assert schemas.faults(read(path)) == []


@pytest.mark.parametrize("name", VLLM)
def test_the_runtime_starts_vllm_serve_on_the_model_folder(name: str) -> None:
    assert engine(name)["command"] == ["python3", "-m", "vllm.entrypoints.cli.main", "serve", "/mnt/models"]
    assert "--served-model-name={{.Name}}" in engine(name)["args"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_engine_serves_the_name_of_the_inference_service(name: str) -> None:
    """Triton names its models by the folders of its repository."""
    said = "{{.Name}}" in str([engine(name).get("args"), engine(name).get("env")])
    assert said or name == "triton-nvidia"


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_runtime_has_the_name_of_its_file_and_is_selected_explicitly(name: str) -> None:
    assert load(name)["metadata"]["name"] == name
    (served,) = load(name)["spec"]["supportedModelFormats"]
    assert served == {"name": FORMATS[name.partition("-")[0]], "version": "1", "autoSelect": False}


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_image_is_pinned(name: str) -> None:
    version = engine(name)["image"].rpartition(":")[2]
    assert version[-1].isalnum()
    assert version.strip("v")[0].isdigit(), version


@pytest.mark.parametrize("name", VLLM)
def test_vllm_has_the_same_version_on_all_hardware(name: str) -> None:
    assert engine(name)["image"].rpartition(":")[2] == engine("vllm-nvidia")["image"].rpartition(":")[2]


@pytest.mark.parametrize("name", RUNTIMES)
def test_kserve_does_not_replace_the_image(name: str) -> None:
    """It does for a runtime that says, by this annotation or by upstream's name, that it is upstream's."""
    assert "serving.kserve.io/server-type" not in load(name)["metadata"].get("annotations", {})


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_engine_requests_its_device(name: str) -> None:
    device = DEVICES[RUNTIMES[name]]
    limits = engine(name)["resources"]["limits"]
    assert limits.keys() == {"cpu", "memory", *([device] if device else [])}
    assert engine(name)["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("name", [*VLLM, "sglang-nvidia"])
def test_the_engine_limits_its_memory(name: str) -> None:
    bounds = ("--kv-cache-memory-bytes=", "--gpu-memory-utilization=", "--mem-fraction-static=")
    assert [argument for argument in engine(name)["args"] if argument.startswith(bounds)]


@pytest.mark.parametrize("name", VLLM)
def test_every_stream_ends_with_usage(name: str) -> None:
    assert "--enable-force-include-usage" in engine(name)["args"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_engine_is_unprivileged(name: str) -> None:
    security = engine(name)["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("name", RUNTIMES)
def test_an_engines_last_output_is_its_termination_message(name: str) -> None:
    assert engine(name)["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_probe_uses_the_served_port(name: str) -> None:
    (port,) = engine(name)["ports"]
    asked = [each["httpGet"]["port"] for kind, each in engine(name).items() if "Probe" in kind and "httpGet" in each]
    assert len(asked) >= 2
    assert set(asked) == {port["containerPort"]}


def test_a_model_is_cluster_local_and_has_its_runtime_resources_and_timeout() -> None:
    predictor = model()["spec"]["predictor"]
    assert model()["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    assert predictor["model"]["runtime"] in RUNTIMES
    assert predictor["model"]["resources"].keys() == {"requests", "limits"}
    assert predictor["timeout"] >= 3600


def test_a_model_uses_an_installed_queue() -> None:
    queue = model()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert (CHECKOUT / "manifests/components/kueue" / queue).is_dir()
    assert model()["metadata"]["namespace"] == "llmariner-models"


@pytest.mark.parametrize("name", VLLM)
def test_a_models_grace_period_exceeds_its_engines_shutdown(name: str) -> None:
    grace = model()["spec"]["predictor"]["terminationGracePeriodSeconds"]
    (drain,) = [each for each in engine(name)["args"] if each.startswith("--shutdown-timeout=")]
    assert int(drain.partition("=")[2]) < grace


def test_no_folder_shadows_the_package_kserve() -> None:
    assert list(KSERVE.rglob("__init__.py")) == list(KSERVE.rglob("conftest.py")) == []
