"""Server-side apply, on the same servers as `test_contract.py`: field ownership and its effects."""

from __future__ import annotations

import json

import pytest

from llmariner.platform.kube.resources import CONFIG_MAPS, DEPLOYMENTS, INFERENCE_SERVICES

from .caller import APPLY, MERGE, Body, Caller, causes
from .objects import config_map, deployment, inference_service


def test_an_apply_creates_and_changes(api: Caller, namespace: str) -> None:
    code, made = api.apply(CONFIG_MAPS, config_map(namespace, x="1"))
    assert code == 201
    code, changed = api.apply(CONFIG_MAPS, config_map(namespace, x="2"))
    assert (code, changed["data"]) == (200, {"x": "2"})
    again = api.apply(CONFIG_MAPS, config_map(namespace, x="2"))[1]
    assert again["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
    assert made["metadata"]["uid"] == again["metadata"]["uid"]
    entries = again["metadata"]["managedFields"]
    assert [(each["manager"], each["operation"]) for each in entries] == [("us", "Apply")]
    assert entries[0]["fieldsV1"]["f:data"]["f:x"] == {}


def test_an_apply_requires_a_field_manager(api: Caller, namespace: str) -> None:
    path = CONFIG_MAPS.path(namespace, "settings")
    assert api.request("PATCH", path, config_map(namespace), media=APPLY)[0] in (400, 422)


def test_a_conflict_names_every_owner(api: Caller, namespace: str) -> None:
    api.apply(CONFIG_MAPS, config_map(namespace, a="1", b="1"), "first")
    api.done("PATCH", CONFIG_MAPS.path(namespace, "settings"), {"data": {"c": "1"}}, media=MERGE, fieldManager="second")
    code, status = api.apply(CONFIG_MAPS, config_map(namespace, a="2", b="1", c="2"), "third")
    assert (code, status["reason"]) == (409, "Conflict")
    assert causes(status) == [(".data.a", "FieldManagerConflict"), (".data.c", "FieldManagerConflict")]
    said = {cause["field"]: cause["message"] for cause in status["details"]["causes"]}
    assert said[".data.a"] == 'conflict with "first"'
    assert said[".data.c"].startswith('conflict with "second" using v1')


def test_a_forced_apply_takes_over_the_fields(api: Caller, namespace: str) -> None:
    api.apply(CONFIG_MAPS, config_map(namespace, a="1"), "first")
    assert api.apply(CONFIG_MAPS, config_map(namespace, a="2"), "second", force="true")[1]["data"] == {"a": "2"}
    code, status = api.apply(CONFIG_MAPS, config_map(namespace, a="1"), "first")
    assert code == 409
    assert [cause["message"] for cause in status["details"]["causes"]] == ['conflict with "second"']


def test_a_field_of_two_owners_remains_until_both_remove_it(api: Caller, namespace: str) -> None:
    api.apply(CONFIG_MAPS, config_map(namespace, a="1"), "first")
    api.apply(CONFIG_MAPS, config_map(namespace, a="1"), "second")
    assert api.apply(CONFIG_MAPS, config_map(namespace), "first")[1]["data"] == {"a": "1"}
    assert api.apply(CONFIG_MAPS, config_map(namespace), "second")[1].get("data") in (None, {})


def test_items_of_a_keyed_list_have_separate_owners(api: Caller, namespace: str) -> None:
    api.apply(INFERENCE_SERVICES, with_env(namespace, A="1", B="1"), "first")
    both = api.apply(INFERENCE_SERVICES, with_env(namespace, C="1"), "second")[1]
    assert env_of(both) == {"A": "1", "B": "1", "C": "1"}
    code, status = api.apply(INFERENCE_SERVICES, with_env(namespace, A="2"), "second")
    assert code == 409
    assert causes(status) == [('.spec.predictor.model.env[name="A"].value', "FieldManagerConflict")]
    assert env_of(api.apply(INFERENCE_SERVICES, with_env(namespace, B="1"), "first")[1]) == {"B": "1", "C": "1"}


def test_a_list_without_keys_has_one_owner(api: Caller, namespace: str) -> None:
    body = inference_service(namespace)
    body["spec"]["predictor"]["model"]["args"] = ["--a"]
    api.apply(INFERENCE_SERVICES, body, "first")
    body["spec"]["predictor"]["model"]["args"] = ["--b"]
    code, status = api.apply(INFERENCE_SERVICES, body, "second")
    assert code == 409
    assert causes(status) == [(".spec.predictor.model.args", "FieldManagerConflict")]


def with_env(namespace: str, **env: str) -> Body:
    body = inference_service(namespace)
    body["spec"]["predictor"] = {
        "model": {
            "modelFormat": {"name": "vLLM"},
            "env": [{"name": name, "value": value} for name, value in env.items()],
        }
    }
    return body


def env_of(body: Body) -> dict[str, str]:
    return {each["name"]: each["value"] for each in body["spec"]["predictor"]["model"]["env"]}


def test_the_scale_subresource_owns_the_replicas(api: Caller, namespace: str) -> None:
    api.apply(DEPLOYMENTS, deployment(namespace), "us")
    scale = DEPLOYMENTS.path(namespace, "engine", "scale")
    api.done("PATCH", scale, {"spec": {"replicas": 3}}, media=MERGE, fieldManager="autoscaler")
    code, status = api.apply(DEPLOYMENTS, deployment(namespace), "us")
    assert code == 409
    assert causes(status) == [(".spec.replicas", "FieldManagerConflict")]
    assert 'conflict with "autoscaler" with subresource "scale"' in json.dumps(status["details"]).replace("\\", "")
    without = deployment(namespace)
    del without["spec"]["replicas"]
    assert api.apply(DEPLOYMENTS, without, "us")[1]["spec"]["replicas"] == 3


def test_an_apply_does_not_change_the_status(api: Caller, namespace: str) -> None:
    api.apply(INFERENCE_SERVICES, inference_service(namespace))
    api.set_status(INFERENCE_SERVICES, namespace, "tiny", {"url": "http://tiny"})
    body = {**inference_service(namespace), "status": {"url": "http://other"}}
    assert api.apply(INFERENCE_SERVICES, body)[1]["status"]["url"] == "http://tiny"


@pytest.mark.parametrize("validation", ["Strict", "Warn"])
def test_an_apply_with_an_unknown_field_is_rejected(api: Caller, namespace: str, validation: str) -> None:
    body = inference_service(namespace, nonsense=1)
    code, status = api.apply(INFERENCE_SERVICES, body, fieldValidation=validation)
    assert code == 500
    assert status["message"] == (
        f"failed to create typed patch object ({namespace}/tiny; serving.kserve.io/v1beta1, Kind=InferenceService): "
        ".spec.predictor.nonsense: field not declared in schema"
    )
