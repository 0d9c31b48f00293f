"""Update masks of a model's configuration: covered fields change, and others do not."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.errors import InvalidRequest
from llmariner.models.model import CONFIG_PATHS, ModelConfig, NewModel, SourceRepository
from llmariner.models.representation import config_paths

OLD = ModelConfig(gpu=2, replicas=3, extra_args=("--old",), on_demand=False)
NEW: dict[str, Any] = {
    "runtime_config": {"resources": {"gpu": 4}, "replicas": 5, "max_replicas": 7, "extra_args": ["--new"]},
    "cluster_allocation_policy": {"enable_on_demand_allocation": True, "allowed_cluster_ids": ["cluster-b"]},
}
POLICY = "config.cluster_allocation_policy"
ALLOWED: dict[str, Any] = {"allowed_clusters": ("cluster-b",)}
MASKS: list[tuple[str, ModelConfig]] = [
    ("config", ModelConfig(4, 5, ("--new",), True, 7, **ALLOWED)),
    ("config.runtime_config", ModelConfig(4, 5, ("--new",), False, 7)),
    ("config.runtime_config.resources", ModelConfig(4, 3, ("--old",), False)),
    ("config.runtime_config.resources.gpu", ModelConfig(4, 3, ("--old",), False)),
    ("config.runtime_config.replicas", ModelConfig(2, 5, ("--old",), False)),
    ("config.runtime_config.max_replicas", ModelConfig(2, 3, ("--old",), False, 7)),
    ("config.runtime_config.extra_args", ModelConfig(2, 3, ("--new",), False)),
    ("config.cluster_allocation_policy", ModelConfig(2, 3, ("--old",), True, **ALLOWED)),
    ("config.cluster_allocation_policy.allowed_cluster_ids", ModelConfig(2, 3, ("--old",), False, **ALLOWED)),
    ("config.cluster_allocation_policy.enable_on_demand_allocation", ModelConfig(2, 3, ("--old",), True)),
    (
        " config.runtime_config.replicas , config.cluster_allocation_policy ",
        ModelConfig(2, 5, ("--old",), True, **ALLOWED),
    ),
]


@pytest.mark.parametrize(("mask", "expected"), MASKS, ids=[mask for mask, _ in MASKS])
def test_an_update_mask_changes_the_fields_that_it_covers(mask: str, expected: ModelConfig) -> None:
    assert OLD.apply_patch(NEW, paths=config_paths(mask)) == expected


def test_every_configuration_path_is_tested() -> None:
    rows = {part.strip().removeprefix("config.") for mask, _ in MASKS for part in mask.split(",")}
    assert rows >= CONFIG_PATHS


def test_a_covered_field_without_a_value_returns_to_its_default() -> None:
    assert OLD.apply_patch({}, paths=config_paths("config.runtime_config")) == ModelConfig(1, 1, (), False)


def test_the_whole_configuration_changes_only_if_given() -> None:
    assert OLD.apply_patch({"runtime_config": {"replicas": 9}}, paths=config_paths("config")) == ModelConfig(
        2, 9, ("--old",), False
    )


@pytest.mark.parametrize("mask", ["", " ", ",", "name", "config.", "config.name", "runtime_config.x", "config.runtime"])
def test_a_mask_without_known_paths_is_rejected(mask: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        config_paths(mask)
    assert refused.value.param == "update_mask"


def test_a_configuration_is_returned_as_it_is_read() -> None:
    assert ModelConfig.from_api(OLD.to_api()) == OLD
    assert ModelConfig.from_api(None) == ModelConfig.from_api({}) == ModelConfig()


WRONG: list[tuple[Any, str]] = [
    ([], "config"),
    ({"runtime_config": 7}, "config.runtime_config"),
    ({"runtime_config": {"resources": []}}, "config.runtime_config.resources"),
    ({"runtime_config": {"resources": {"gpu": -1}}}, "config.runtime_config.resources.gpu"),
    ({"runtime_config": {"resources": {"gpu": True}}}, "config.runtime_config.resources.gpu"),
    ({"runtime_config": {"replicas": 0}}, "config.runtime_config.replicas"),
    ({"runtime_config": {"replicas": 1.0}}, "config.runtime_config.replicas"),
    ({"runtime_config": {"max_replicas": 101}}, "config.runtime_config.max_replicas"),
    ({"runtime_config": {"max_replicas": 2}}, "config.runtime_config.max_replicas"),
    ({"runtime_config": {"extra_args": "--x"}}, "config.runtime_config.extra_args"),
    ({"runtime_config": {"extra_args": ["x"] * 65}}, "config.runtime_config.extra_args"),
    ({"runtime_config": {"extra_args": ["a\0"]}}, "config.runtime_config.extra_args"),
    ({"runtime_config": {"extra_args": ["x" * 1025]}}, "config.runtime_config.extra_args"),
    ({"cluster_allocation_policy": None}, "config.cluster_allocation_policy"),
    *(
        ({"cluster_allocation_policy": {"allowed_cluster_ids": wrong}}, f"{POLICY}.allowed_cluster_ids")
        for wrong in ("cluster-a", [1], ["gpu-west"], ["cluster-A"], ["cluster-a"] * 101, [""], ["cluster-a\n"])
    ),
    (
        {"cluster_allocation_policy": {"enable_on_demand_allocation": 1}},
        "config.cluster_allocation_policy.enable_on_demand_allocation",
    ),
]


@pytest.mark.parametrize(("value", "param"), WRONG, ids=lambda value: str(value)[:40])
def test_an_invalid_value_is_rejected_with_its_path(value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        OLD.apply_patch(value, paths=None)
    assert refused.value.param == param
    assert f"'{param}'" in refused.value.message


IDS = ["m", "org/name", "ft:org/name:x", "a-b_c.d:e/f", "0", "x" * 200]
NO_IDS = ["", "/m", "-m", ".m", ":m", "a b", "a//b", "a/../b", "a..b", "ä", "a\n", "x" * 201, "a\0", "a%2f"]


@pytest.mark.parametrize("model_id", IDS)
def test_ids_may_have_letters_digits_and_some_punctuation(model_id: str) -> None:
    assert NewModel(model_id, SourceRepository.LOCAL, "").id == model_id


@pytest.mark.parametrize("model_id", NO_IDS)
def test_an_invalid_id_is_rejected(model_id: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        NewModel(model_id, SourceRepository.LOCAL, "")
    assert refused.value.param == "id"


def test_a_fine_tuned_models_suffix_is_bounded() -> None:
    assert NewModel.fine_tuned_id("base", "x" * 18) == f"ft:base:{'x' * 18}"
    for suffix in ("", "x" * 19):
        with pytest.raises(InvalidRequest):
            NewModel.fine_tuned_id("base", suffix)
