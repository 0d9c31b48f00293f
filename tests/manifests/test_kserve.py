"""The engines' runtimes: one per hardware, pinned, bounded, metering, and never picked by chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from kubernetes.schemas import Schemas

KSERVE = Path(__file__).parents[2] / "kserve"
DEVICES = {
    "vllm-cpu": None,
    "vllm-nvidia": "nvidia.com/gpu",
    "vllm-amd": "amd.com/gpu",
    "vllm-gaudi": "habana.ai/gaudi",
}


def load(name: str) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((KSERVE / f"{name}.yaml").read_text())
    return body


def engine(name: str) -> dict[str, Any]:
    (found,) = load(name)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_there_is_a_file_for_every_hardware_and_it_is_installed() -> None:
    assert {path.stem for path in KSERVE.glob("vllm-*.yaml")} == DEVICES.keys()
    assert set(load("kustomization")["resources"]) == {f"{name}.yaml" for name in DEVICES}


@pytest.mark.parametrize("name", [*DEVICES, "templates/inference-service"])
def test_the_object_is_accepted(name: str, schemas: Schemas) -> None:
    assert schemas.faults(load(name)) == []


@pytest.mark.parametrize("name", DEVICES)
def test_the_runtime_starts_vllm_serve_on_the_model_folder(name: str) -> None:
    assert engine(name)["command"] == ["vllm", "serve", "/mnt/models"]
    assert "--served-model-name={{.Name}}" in engine(name)["args"]


@pytest.mark.parametrize("name", DEVICES)
def test_the_runtime_has_the_name_of_its_file_and_is_only_chosen_by_it(name: str) -> None:
    assert load(name)["metadata"]["name"] == name
    (served,) = load(name)["spec"]["supportedModelFormats"]
    assert served == {"name": "vLLM", "version": "1", "autoSelect": False}


@pytest.mark.parametrize("name", DEVICES)
def test_the_image_is_pinned_to_one_version_for_all_hardware(name: str) -> None:
    assert engine(name)["image"].rpartition(":")[2] == engine("vllm-nvidia")["image"].rpartition(":")[2]
    assert engine(name)["image"].rpartition(":")[2].startswith("v0.")


@pytest.mark.parametrize("name", DEVICES)
def test_kserve_does_not_swap_the_image_for_another(name: str) -> None:
    """It does for a runtime that says, by this annotation or by upstream's name, that it is upstream's."""
    assert "serving.kserve.io/server-type" not in load(name)["metadata"].get("annotations", {})


@pytest.mark.parametrize(("name", "device"), DEVICES.items())
def test_the_engine_asks_for_its_device(name: str, device: str | None) -> None:
    limits = engine(name)["resources"]["limits"]
    assert limits.keys() == {"cpu", "memory", *([device] if device else [])}
    assert engine(name)["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize("name", DEVICES)
def test_the_engine_bounds_its_memory(name: str) -> None:
    bounds = ("--kv-cache-memory-bytes=", "--gpu-memory-utilization=")
    assert [argument for argument in engine(name)["args"] if argument.startswith(bounds)]


@pytest.mark.parametrize("name", DEVICES)
def test_every_stream_ends_with_its_usage(name: str) -> None:
    assert "--enable-force-include-usage" in engine(name)["args"]


@pytest.mark.parametrize("name", DEVICES)
def test_the_engine_has_no_privileges(name: str) -> None:
    security = engine(name)["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}


def test_a_model_is_cluster_local_and_says_its_runtime_resources_and_timeout() -> None:
    model = load("templates/inference-service")
    predictor = model["spec"]["predictor"]
    assert model["metadata"]["labels"] == {"networking.kserve.io/visibility": "cluster-local"}
    assert predictor["model"]["runtime"] in DEVICES
    assert predictor["model"]["resources"].keys() == {"requests", "limits"}
    assert predictor["timeout"] >= 3600


def test_a_model_is_given_longer_to_end_than_its_engine_takes() -> None:
    grace = load("templates/inference-service")["spec"]["predictor"]["terminationGracePeriodSeconds"]
    for name in DEVICES:
        (drain,) = [each for each in engine(name)["args"] if each.startswith("--shutdown-timeout=")]
        assert int(drain.partition("=")[2]) < grace


def test_nothing_here_can_shadow_the_package_kserve() -> None:
    assert list(KSERVE.rglob("__init__.py")) == list(KSERVE.rglob("conftest.py")) == []
