"""The behavior of an API server, on the one in the test process and, if LLMARINER_TEST_KUBECONFIG names one, on a real one.

A real server needs a controller manager for what follows a deletion, and the CRDs of the kinds that are used here.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.platform.kube.resources import CONFIG_MAPS, DEPLOYMENTS, INFERENCE_SERVICES, PODS, Resource

from .caller import JSON_PATCH, MERGE, STRATEGIC, Body, Caller, causes, until
from .objects import config_map, deployment, inference_service

HTTP_ROUTES = Resource("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")


# Discovery


def test_the_version_is_complete(api: Caller) -> None:
    version = api.done("GET", "/version")
    assert version.keys() >= {"major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion"}
    assert version.keys() >= {"compiler", "platform"}


def test_discovery_lists_names_scopes_and_subresources(api: Caller) -> None:
    assert "v1" in api.done("GET", "/api")["versions"]
    groups = {group["name"]: group["preferredVersion"]["groupVersion"] for group in api.done("GET", "/apis")["groups"]}
    assert groups["serving.kserve.io"] == "serving.kserve.io/v1beta1"
    assert groups["apps"] == "apps/v1"
    found = api.done("GET", "/apis/serving.kserve.io/v1beta1")["resources"]
    by_name = {each["name"]: each for each in found}
    assert by_name["inferenceservices"]["shortNames"] == ["isvc"]
    assert by_name["inferenceservices"]["namespaced"] is True
    assert "inferenceservices/status" in by_name
    assert "inferenceservices/scale" not in by_name
    scale = next(each for each in api.done("GET", "/apis/apps/v1")["resources"] if each["name"] == "deployments/scale")
    assert (scale["group"], scale["version"], scale["kind"]) == ("autoscaling", "v1", "Scale")


@pytest.mark.parametrize("path", ["/apis/example.org/v1", "/apis/apps/v1/things", "/api/v1/namespaces/x/nodes", "/x"])
def test_an_unserved_kind_is_not_found(api: Caller, path: str) -> None:
    code, _ = api.request("GET", path)
    assert code == 404


# Creating, reading, deleting


def test_a_new_object_gets_server_set_fields(api: Caller, namespace: str) -> None:
    body = config_map(namespace, x="1")
    body["metadata"].update(uid="mine", creationTimestamp="2001-01-01T00:00:00Z", generation=9)
    code, made = api.request("POST", CONFIG_MAPS.path(namespace), body)
    assert code == 201
    metadata = made["metadata"]
    assert (made["kind"], made["apiVersion"]) == ("ConfigMap", "v1")
    assert int(metadata["resourceVersion"]) > 0
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"] > "2020"
    assert "selfLink" not in metadata
    assert api.get(CONFIG_MAPS, namespace, "settings") == made


def test_a_name_is_unique(api: Caller, namespace: str) -> None:
    api.make(CONFIG_MAPS, config_map(namespace))
    code, status = api.request("POST", CONFIG_MAPS.path(namespace), config_map(namespace))
    assert (code, status["reason"], status["kind"]) == (409, "AlreadyExists", "Status")
    assert status["message"] == 'configmaps "settings" already exists'


def test_missing_fields_are_named(api: Caller, namespace: str) -> None:
    code, status = api.request("GET", INFERENCE_SERVICES.path(namespace, "tiny"))
    assert (code, status["reason"]) == (404, "NotFound")
    assert status["message"] == 'inferenceservices.serving.kserve.io "tiny" not found'
    assert status["details"] == {"name": "tiny", "group": "serving.kserve.io", "kind": "inferenceservices"}
    code, status = api.request("POST", CONFIG_MAPS.path("no-such-place"), config_map("no-such-place"))
    assert (code, status["message"]) == (404, 'namespaces "no-such-place" not found')


def test_the_server_generates_names(api: Caller, namespace: str) -> None:
    body = config_map(namespace)
    body["metadata"] = {"generateName": "run-"}
    names = {api.done("POST", CONFIG_MAPS.path(namespace), body)["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("run-") and len(name) == 9 for name in names)


def test_a_body_with_another_name_or_namespace_is_rejected(api: Caller, namespace: str) -> None:
    code, status = api.request("POST", CONFIG_MAPS.path(namespace), config_map("elsewhere"))
    assert (code, status["reason"]) == (400, "BadRequest")
    code, status = api.request("POST", CONFIG_MAPS.path(namespace), deployment(namespace))
    assert (code, status["reason"]) == (400, "BadRequest")


def test_a_dry_run_responds_and_stores_nothing(api: Caller, namespace: str) -> None:
    path = CONFIG_MAPS.path(namespace)
    assert api.done("POST", path, config_map(namespace, x="1"), dryRun="All")["data"] == {"x": "1"}
    assert api.request("GET", f"{path}/settings")[0] == 404
    api.make(CONFIG_MAPS, config_map(namespace, x="1"))
    api.done("PATCH", f"{path}/settings", {"data": {"x": "2"}}, media=MERGE, dryRun="All")
    api.done("DELETE", f"{path}/settings", dryRun="All")
    assert api.get(CONFIG_MAPS, namespace, "settings")["data"] == {"x": "1"}


def test_a_deletion_checks_its_preconditions(api: Caller, namespace: str) -> None:
    uid = api.make(CONFIG_MAPS, config_map(namespace))["metadata"]["uid"]
    path = CONFIG_MAPS.path(namespace, "settings")
    code, status = api.request("DELETE", path, {"preconditions": {"uid": "another"}})
    assert (code, status["reason"]) == (409, "Conflict")
    code, status = api.request("DELETE", path, {"preconditions": {"uid": uid}})
    assert (code, status["status"], status["details"]["uid"]) == (200, "Success", uid)


def test_finalizers_delay_deletion(api: Caller, namespace: str) -> None:
    body = config_map(namespace)
    body["metadata"]["finalizers"] = ["llmariner.ai/test"]
    api.make(CONFIG_MAPS, body)
    path = CONFIG_MAPS.path(namespace, "settings")
    waiting = api.done("DELETE", path)
    assert waiting["metadata"]["deletionTimestamp"]
    api.done("DELETE", path)
    assert api.get(CONFIG_MAPS, namespace, "settings")["metadata"]["finalizers"] == ["llmariner.ai/test"]
    api.done("PATCH", path, {"metadata": {"finalizers": None}}, media=MERGE)
    assert api.request("GET", path)[0] == 404


def test_a_collection_is_deleted_by_labels(api: Caller, namespace: str) -> None:
    for name, group in (("a", "x"), ("b", "x"), ("c", "y")):
        api.make(CONFIG_MAPS, config_map(namespace, name, {"group": group}))
    api.done("DELETE", CONFIG_MAPS.path(namespace), labelSelector="group=x")
    left = api.done("GET", CONFIG_MAPS.path(namespace), labelSelector="group")["items"]
    assert [item["metadata"]["name"] for item in left] == ["c"]


@pytest.mark.usefixtures("kubernetes_controllers")
def test_dependents_are_deleted_with_their_owner(api: Caller, namespace: str) -> None:
    owner = api.make(CONFIG_MAPS, config_map(namespace, "owner"))["metadata"]
    owned = config_map(namespace, "owned")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    owned["metadata"]["ownerReferences"] = [reference]
    api.make(CONFIG_MAPS, owned)
    api.done("DELETE", CONFIG_MAPS.path(namespace, "owner"), {"propagationPolicy": "Background"})
    until(lambda: api.request("GET", CONFIG_MAPS.path(namespace, "owned"))[0] == 404)


@pytest.mark.usefixtures("kubernetes_controllers")
def test_orphaned_dependents_remain(api: Caller, namespace: str) -> None:
    owner = api.make(CONFIG_MAPS, config_map(namespace, "owner"))["metadata"]
    owned = config_map(namespace, "owned")
    owned["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    ]
    api.make(CONFIG_MAPS, owned)
    api.done("DELETE", CONFIG_MAPS.path(namespace, "owner"), {"propagationPolicy": "Orphan"})
    until(lambda: api.request("GET", CONFIG_MAPS.path(namespace, "owner"))[0] == 404)
    until(lambda: not api.get(CONFIG_MAPS, namespace, "owned")["metadata"].get("ownerReferences"))


# Writing


def test_a_stale_write_is_rejected(api: Caller, namespace: str) -> None:
    first = api.make(CONFIG_MAPS, config_map(namespace, x="1"))
    path = CONFIG_MAPS.path(namespace, "settings")
    second = api.done("PUT", path, {**first, "data": {"x": "2"}})
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    code, status = api.request("PUT", path, {**first, "data": {"x": "3"}})
    assert (code, status["reason"]) == (409, "Conflict")
    assert "the object has been modified" in status["message"]
    stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"x": "3"}}
    assert api.request("PATCH", path, stale, media=MERGE)[0] == 409
    assert api.get(CONFIG_MAPS, namespace, "settings")["data"] == {"x": "2"}


def test_a_write_without_changes_is_no_write(api: Caller, namespace: str) -> None:
    made = api.make(CONFIG_MAPS, config_map(namespace, x="1"))
    assert api.patch(CONFIG_MAPS, namespace, "settings", {"data": {"x": "1"}}) == made


@pytest.mark.usefixtures("objects_unchanged")
def test_the_generation_counts_changes_of_the_spec_only(api: Caller, namespace: str) -> None:
    assert api.make(INFERENCE_SERVICES, inference_service(namespace))["metadata"]["generation"] == 1
    labeled = api.patch(INFERENCE_SERVICES, namespace, "tiny", {"metadata": {"labels": {"a": "b"}}})
    assert labeled["metadata"]["generation"] == 1
    wished = api.patch(INFERENCE_SERVICES, namespace, "tiny", {"spec": {"predictor": {"maxReplicas": 2}}})
    assert wished["metadata"]["generation"] == 2
    status = api.set_status(INFERENCE_SERVICES, namespace, "tiny", {"observedGeneration": 2})
    assert status["metadata"]["generation"] == 2


@pytest.mark.usefixtures("objects_unchanged")
@pytest.mark.parametrize(("resource", "make"), [(INFERENCE_SERVICES, inference_service), (DEPLOYMENTS, deployment)])
def test_status_is_a_separate_subresource(api: Caller, namespace: str, resource: Resource, make: Any) -> None:
    body = make(namespace)
    name = body["metadata"]["name"]
    made = api.make(resource, {**body, "status": {"observedGeneration": 7}})
    assert made.get("status", {}).get("observedGeneration") is None
    early = api.patch(resource, namespace, name, {"status": {"observedGeneration": 2}})
    assert early.get("status", {}).get("observedGeneration") is None
    reported = api.set_status(resource, namespace, name, {"observedGeneration": 3})
    assert reported["status"]["observedGeneration"] == 3
    path = resource.path(namespace, name)
    mixed = {"metadata": {"labels": {"by": "status"}}, "spec": {"replicas": 9}, "status": {"observedGeneration": 4}}
    after = api.done("PATCH", f"{path}/status", mixed, media=MERGE)
    assert after["spec"] == made["spec"]
    assert after["status"]["observedGeneration"] == 4
    api.patch(resource, namespace, name, {"status": {"observedGeneration": 5}})
    read = api.get(resource, namespace, name)
    assert read["status"]["observedGeneration"] == 4
    replaced = api.done("PUT", path, {key: value for key, value in read.items() if key != "status"})
    assert replaced["status"]["observedGeneration"] == 4
    assert api.done("GET", f"{path}/status")["status"]["observedGeneration"] == 4


@pytest.mark.usefixtures("objects_unchanged")
def test_a_deployment_is_scaled_through_its_subresource(api: Caller, namespace: str) -> None:
    made = api.make(DEPLOYMENTS, deployment(namespace))["metadata"]
    path = DEPLOYMENTS.path(namespace, "engine", "scale")
    scale = api.done("GET", path)
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"].get("replicas", 0) == 0
    assert scale["metadata"]["resourceVersion"] == made["resourceVersion"]
    scaled = api.done("PUT", path, {**scale, "spec": {"replicas": 2}})
    assert scaled["spec"]["replicas"] == 2
    assert api.request("PUT", path, {**scale, "spec": {"replicas": 3}})[0] == 409
    api.done("PATCH", path, {"spec": {"replicas": 0}}, media=MERGE)
    read = api.get(DEPLOYMENTS, namespace, "engine")
    assert read["spec"]["replicas"] == 0
    assert read["metadata"]["generation"] == 3
    assert api.request("GET", INFERENCE_SERVICES.path(namespace, "tiny", "scale"))[0] == 404


def test_replicas_default_to_one(api: Caller, namespace: str) -> None:
    body = deployment(namespace)
    del body["spec"]["replicas"]
    body["spec"]["paused"] = True
    assert api.make(DEPLOYMENTS, body)["spec"]["replicas"] == 1


def test_json_patches_apply_in_order(api: Caller, namespace: str) -> None:
    api.make(CONFIG_MAPS, config_map(namespace, a="1", b="2"))
    operations: list[Body] = [
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "replace", "path": "/data/a", "value": "3"},
        {"op": "move", "from": "/data/b", "path": "/data/c"},
        {"op": "add", "path": "/metadata/annotations", "value": {"x/y": "z"}},
        {"op": "copy", "from": "/metadata/annotations/x~1y", "path": "/data/d"},
        {"op": "remove", "path": "/metadata/annotations/x~1y"},
    ]
    after = api.patch(CONFIG_MAPS, namespace, "settings", operations, JSON_PATCH)
    assert after["data"] == {"a": "3", "c": "2", "d": "z"}
    path = CONFIG_MAPS.path(namespace, "settings")
    for wrong in ({"op": "test", "path": "/data/a", "value": "9"}, {"op": "remove", "path": "/data/none"}):
        assert api.request("PATCH", path, [{**wrong}], media=JSON_PATCH)[0] == 422


def test_core_kinds_are_merged_by_keys_and_custom_kinds_are_not(api: Caller, namespace: str) -> None:
    api.make(DEPLOYMENTS, deployment(namespace))
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "engine", "env": [{"name": "A", "value": "1"}]}]}}}}
    container = api.patch(DEPLOYMENTS, namespace, "engine", patch, STRATEGIC)["spec"]["template"]["spec"]["containers"][
        0
    ]
    assert container["image"] == "example.org/engine:1"
    assert container["env"] == [{"name": "A", "value": "1"}]
    api.make(INFERENCE_SERVICES, inference_service(namespace))
    code, status = api.request("PATCH", INFERENCE_SERVICES.path(namespace, "tiny"), {}, media=STRATEGIC)
    assert (code, status["reason"]) == (415, "UnsupportedMediaType")


# Admission


def test_unknown_fields_are_dropped_or_rejected_as_requested(api: Caller, namespace: str) -> None:
    for resource, body in ((INFERENCE_SERVICES, inference_service(namespace)), (DEPLOYMENTS, deployment(namespace))):
        body["spec"]["nonsense"] = 1
        code, status = api.request("POST", resource.path(namespace), body, fieldValidation="Strict")
        assert (code, status["reason"]) == (400, "BadRequest")
        assert 'unknown field "spec.nonsense"' in status["message"]
        assert "nonsense" not in api.make(resource, body)["spec"]


@pytest.mark.usefixtures("objects_unchanged")
def test_a_wrong_value_of_a_custom_kind_is_named(api: Caller, namespace: str) -> None:
    body = inference_service(namespace, minReplicas="one")
    code, status = api.request("POST", INFERENCE_SERVICES.path(namespace), body)
    assert (code, status["reason"], status["details"]["kind"]) == (422, "Invalid", "InferenceService")
    assert "spec.predictor.minReplicas" in [cause["field"] for cause in status["details"]["causes"]]
    assert status["message"].startswith('InferenceService.serving.kserve.io "tiny" is invalid: ')


def test_custom_kinds_are_stored_with_their_defaults(api: Caller, namespace: str) -> None:
    made = api.make(HTTP_ROUTES, route(namespace))
    assert made["spec"]["parentRefs"] == [{"name": "edge", "group": "gateway.networking.k8s.io", "kind": "Gateway"}]
    assert made["spec"]["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1"}}]


def test_rules_across_fields_are_enforced(api: Caller, namespace: str) -> None:
    code, status = api.request("POST", HTTP_ROUTES.path(namespace), route(namespace, value="v1"))
    assert code == 422
    assert "absolute path" in status["message"]


def route(namespace: str, value: str = "/v1") -> Body:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "models", "namespace": namespace},
        "spec": {
            "parentRefs": [{"name": "edge"}],
            "rules": [{"matches": [{"path": {"value": value}}], "backendRefs": [{"name": "models", "port": 80}]}],
        },
    }


def test_an_invalid_name_is_rejected(api: Caller, namespace: str) -> None:
    code, status = api.request("POST", CONFIG_MAPS.path(namespace), config_map(namespace, "Not A Name"))
    assert (code, status["reason"]) == (422, "Invalid")
    assert causes(status) == [("metadata.name", "FieldValueInvalid")]


# Lists and watches


def test_a_list_is_paginated(api: Caller, namespace: str) -> None:
    for number in range(5):
        api.make(CONFIG_MAPS, config_map(namespace, f"n{number}", {"page": "yes"}))
    path, names = CONFIG_MAPS.path(namespace), []
    page = api.done("GET", path, limit=2)
    while True:
        names += [item["metadata"]["name"] for item in page["items"]]
        assert page["kind"] == "ConfigMapList"
        token = page["metadata"].get("continue")
        if not token:
            break
        assert len(page["items"]) == 2
        page = api.done("GET", path, **{"limit": 2, "continue": token})
    assert [name for name in names if name.startswith("n")] == ["n0", "n1", "n2", "n3", "n4"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ("color=red", "ab"),
        ("color==red,size=big", "a"),
        ("color!=red", "cd"),
        ("size", "ac"),
        ("!color", "d"),
        ("color in (red,blue)", "abc"),
        ("color notin (red),size", "c"),
        ("x.org/y=z", "d"),
    ],
)
def test_label_selectors(api: Caller, namespace: str, labels: str, names: str) -> None:
    marks = {
        "a": {"color": "red", "size": "big"},
        "b": {"color": "red"},
        "c": {"color": "blue", "size": "small"},
        "d": {"x.org/y": "z"},
    }
    for name, labels_ in marks.items():
        api.make(CONFIG_MAPS, config_map(namespace, name, labels_))
    found = api.done(
        "GET", CONFIG_MAPS.path(namespace), labelSelector=labels, fieldSelector="metadata.name!=kube-root-ca.crt"
    )
    assert "".join(item["metadata"]["name"] for item in found["items"]) == names


def test_field_selectors(api: Caller, namespace: str) -> None:
    for name in ("one", "two"):
        api.make(INFERENCE_SERVICES, inference_service(namespace, name))
    path = INFERENCE_SERVICES.path(namespace)
    found = api.done("GET", path, fieldSelector="metadata.name=two")["items"]
    assert [item["metadata"]["name"] for item in found] == ["two"]
    assert api.request("GET", path, fieldSelector="spec.predictor.minReplicas=0")[0] == 400
    assert api.request("GET", path, labelSelector="a=(")[0] == 400


def pod(namespace: str) -> Body:
    spec = {"containers": [{"name": "main", "image": "example.org/main:1"}], "schedulerName": "nobody"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "main", "namespace": namespace}, "spec": spec}


@pytest.mark.usefixtures("kubernetes_controllers")
def test_pods_are_selected_by_phase(api: Caller, namespace: str) -> None:
    api.make(PODS, pod(namespace))
    api.set_status(PODS, namespace, "main", {"phase": "Running"})
    for phase, count in (("Running", 1), ("Pending", 0)):
        found = api.done("GET", PODS.path(namespace), fieldSelector=f"status.phase={phase}")["items"]
        assert len(found) == count


def test_a_watch_continues_from_a_version(api: Caller, namespace: str) -> None:
    api.make(CONFIG_MAPS, config_map(namespace, "before", {"ours": "yes"}))
    path = CONFIG_MAPS.path(namespace)
    version = api.done("GET", path)["metadata"]["resourceVersion"]
    api.make(CONFIG_MAPS, config_map(namespace, "after", {"ours": "yes"}))
    api.make(CONFIG_MAPS, config_map(namespace, "foreign"))
    other = deployment(namespace)
    other["metadata"]["labels"] = {"ours": "yes"}
    api.make(DEPLOYMENTS, other)
    api.patch(CONFIG_MAPS, namespace, "before", {"metadata": {"labels": {"ours": "no"}}})
    api.patch(CONFIG_MAPS, namespace, "after", {"data": {"x": "1"}})
    api.done("DELETE", f"{path}/after")
    seen = list(api.lines(path, resourceVersion=version, labelSelector="ours=yes", timeoutSeconds=1))
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in seen] == [
        ("ADDED", "after"),
        ("DELETED", "before"),
        ("MODIFIED", "after"),
        ("DELETED", "after"),
    ]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in seen]
    assert versions == sorted(set(versions))
    assert seen[-1]["object"]["kind"] == "ConfigMap"


def test_a_watch_without_a_version_starts_with_existing_objects(api: Caller, namespace: str) -> None:
    api.make(CONFIG_MAPS, config_map(namespace, "a", {"ours": "yes"}))
    for start in ({}, {"resourceVersion": "0"}):
        seen = list(api.lines(CONFIG_MAPS.path(namespace), labelSelector="ours=yes", timeoutSeconds=1, **start))
        assert [(event["type"], event["object"]["metadata"]["name"]) for event in seen] == [("ADDED", "a")]


def test_a_watch_marks_the_end_of_the_initial_list(api: Caller, namespace: str) -> None:
    api.make(CONFIG_MAPS, config_map(namespace, "a", {"ours": "yes"}))
    asked: dict[str, str | int] = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
        "labelSelector": "ours=yes",
        "timeoutSeconds": 1,
    }
    seen = list(api.lines(CONFIG_MAPS.path(namespace), **asked))
    assert [event["type"] for event in seen[:2]] == ["ADDED", "BOOKMARK"]
    assert seen[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(seen[1]["object"]["metadata"]["resourceVersion"]) > 0


def test_an_expired_version_is_gone(api: Caller, namespace: str, request: pytest.FixtureRequest) -> None:
    path, old = CONFIG_MAPS.path(namespace), "1"
    if not api.real:
        old = api.done("GET", path)["metadata"]["resourceVersion"]
        request.getfixturevalue("shared_server").expire()
    code, status = api.request("GET", path, watch="true", resourceVersion=old, timeoutSeconds=1)
    if code == 200:
        if api.real and status.get("type") != "ERROR":
            pytest.skip("this API server was started on an empty etcd minutes ago and still has its first version")
        assert status["type"] == "ERROR"
        status = status["object"]
    assert (status["code"], status["reason"]) == (410, "Expired")
