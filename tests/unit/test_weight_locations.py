"""Locations that a project may load weights from."""

from __future__ import annotations

import pytest

from llmariner.settings import ModelSettings
from llmariner.weight_locations import location_error

ALLOWED = ("hf://", "s3://models/${project_id}/", "pvc://public/weights", "file:///srv/models/${project_id}/")


@pytest.mark.parametrize(
    "uri",
    [
        "hf://org/model",
        "hf://org/model:v1.0",
        "s3://models/proj_1/tuned/x",
        "pvc://public/weights",
        "pvc://public/weights/x",
        "file:///srv/models/proj_1/x",
    ],
)
def test_listed_locations_are_allowed_for_a_project(uri: str) -> None:
    assert location_error(uri, ALLOWED, "proj_1") is None


@pytest.mark.parametrize(
    "uri",
    [
        "oci://registry.example/image:1",
        "http://169.254.169.254/latest",
        "https://models.example/x",
        "s3://models/proj_2/secret",
        "s3://models/proj_1/../proj_2/secret",
        "s3://models/proj_1/%2e%2e/proj_2/secret",
        "s3://models/proj_1//../proj_2",
        "s3://models/proj_1/./x",
        "s3://MODELS/proj_1/x",
        "S3://models/proj_1/x",
        "s3://models/proj_10/x",
        "s3://user@models/proj_1/x",
        "s3://models/proj_1/x?versionId=1",
        "s3://models/proj_1/x#y",
        "s3://models/proj_1/$(HF_TOKEN)",
        "s3://models\\proj_1\\x",
        "s3://models/proj_1/x\n",
        "pvc://publicweights/x",
        "pvc://public/weights2",
        "pvc://public/weights/../../private",
        "file:///srv/models/proj_1/../proj_2/x",
        "file:///etc/passwd",
        "kserve://others",
        "hf://",
        "hf://..",
        "org/model",
        "",
    ],
)
def test_any_other_location_is_rejected(uri: str) -> None:
    assert location_error(uri, ALLOWED, "proj_1") is not None


def test_a_projects_location_is_not_allowed_for_shared_models() -> None:
    assert location_error("hf://org/model", ALLOWED, None) is None
    assert location_error("s3://models//x", ALLOWED, None) is not None
    assert location_error("s3://models/${project_id}/x", ALLOWED, None) is not None
    assert location_error("s3://models-proj_1/x", ("s3://models-${project_id}",), None) is not None
    assert location_error("s3://models/x", ("s3://models/${project_id}",), None) is not None


def test_the_list_is_configurable() -> None:
    assert ModelSettings.load({}).locations == ("hf://", "ollama://")
    assert ModelSettings.load({"LLMARINER_MODEL_LOCATIONS": ""}).locations == ()
    said = {"LLMARINER_MODEL_LOCATIONS": "hf://Qwen/, s3://bucket/${project_id}/"}
    assert ModelSettings.load(said).locations == ("hf://Qwen/", "s3://bucket/${project_id}/")


@pytest.mark.parametrize("entry", ["oci://registry/", "http://inside/", "s3://", "pvc://", "../x", "s3://a/../b", "hf"])
def test_a_list_that_permits_too_much_fails_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match="LLMARINER_MODEL_LOCATIONS"):
        ModelSettings.load({"LLMARINER_MODEL_LOCATIONS": f"hf://, {entry}"})
