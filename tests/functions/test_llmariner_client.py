"""Requests of LLMariner's upstream command line are accepted, and responses have the fields that it reads.

`recordings/llmariner_cli.json` holds requests of its release 1.53.0, recorded against this platform: protobuf's JSON, zeros
left out, masks in lowerCamelCase. Ids stand as names in braces; `makes` names the id in an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.tenancy.members.memberships import Members

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error
from .installation import Installation

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "recordings/llmariner_cli.json").read_text())
ENUMERATIONS = {
    "loading_status": {f"MODEL_LOADING_STATUS_{name}" for name in ("REQUESTED", "LOADING", "SUCCEEDED", "FAILED")},
    "activation_status": {"ACTIVATION_STATUS_ACTIVE", "ACTIVATION_STATUS_INACTIVE"},
    "formats": {f"MODEL_FORMAT_{name}" for name in ("GGUF", "HUGGING_FACE", "NVIDIA_TRITON", "OLLAMA")},
    "source_repository": {
        f"SOURCE_REPOSITORY_{name}"
        # The client shows the last two, which are this platform's own, as unknown.
        for name in ("OBJECT_STORE", "HUGGING_FACE", "OLLAMA", "FINE_TUNING", "LOCAL", "KUBERNETES")
    },
    "organization_role": {f"ORGANIZATION_ROLE_{name}" for name in ("OWNER", "READER", "TENANT_SYSTEM")},
    "project_role": {"PROJECT_ROLE_OWNER", "PROJECT_ROLE_MEMBER"},
}
ENUMERATIONS["role"] = ENUMERATIONS["organization_role"] | ENUMERATIONS["project_role"]


@pytest.fixture(scope="module")
def answers(
    router: Any, in_process: InProcessClient, installation: Installation, admin: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Every recorded request asked in turn: the last answer of each command. A viewer is in the default project."""
    owner = installation.owner
    caller = installation.context.authenticator.caller_for_user(owner.user_id, owner.organization_id, owner.project_id)
    members = Members(installation.context.database)
    viewer = members.add(caller, "vic@example.org", "reader").user_id
    members.add_to_project(caller, owner.project_id, viewer, "viewer")
    ids = {"{organization}": owner.organization_id, "{project}": owner.project_id}

    def ask(row: dict[str, Any]) -> HttpResponse:
        text = json.dumps(row)
        for name, id_ in ids.items():
            text = text.replace(name, id_)
        said = json.loads(text)
        return in_process.send(
            router, HttpRequest(said["method"], said["path"], said.get("body"), admin, said.get("query", ""))
        )

    found: dict[str, Any] = {}
    for row in RECORDED:
        answer = ask(row)
        assert answer.status == 200, (row, answer.body)
        found[row["command"]] = answer.json
        if "makes" in row:
            ids["{" + row["makes"] + "}"] = answer.json["id"]
    yield found
    before = {"config": {}, "update_mask": "config.runtime_config,config.cluster_allocation_policy"}
    for undo in (
        HttpRequest("POST", "/v1/models/tiny:deactivate", None, admin),
        HttpRequest("PATCH", "/v1/models/tiny", before, admin),
    ):
        assert in_process.send(router, undo).status == 200
    members.remove(caller, viewer)


def enumerated(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every value of an enumeration in a document, with the field that it stands in."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from enumerated(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from enumerated(each, name)
    elif name in ENUMERATIONS and value is not None:
        yield name, value


def test_every_enumeration_value_is_known_to_the_client(answers: dict[str, Any]) -> None:
    met = list(enumerated(list(answers.values())))
    assert {name for name, _ in met} >= {"loading_status", "role", "organization_role"}
    assert [(name, value) for name, value in met if value not in ENUMERATIONS[name]] == []


def test_a_viewer_has_the_nearest_known_role_and_the_actual_one(answers: dict[str, Any]) -> None:
    users = answers["llma admin projects list-members Default"]["users"]
    [viewer] = [each for each in users if each["user_id"] == "vic@example.org"]
    assert (viewer["role"], viewer["role_id"]) == ("PROJECT_ROLE_MEMBER", "viewer")


def config(model: dict[str, Any]) -> tuple[Any, ...]:
    runtime = model["config"]["runtime_config"]
    on_demand = model["config"]["cluster_allocation_policy"]["enable_on_demand_allocation"]
    return runtime["resources"]["gpu"], runtime["replicas"], runtime["extra_args"], on_demand


def test_an_update_mask_of_a_wrapped_model_applies(answers: dict[str, Any]) -> None:
    update = "llma models update tiny"
    assert config(answers[f"{update} --replicas 3 --extra-args=--max-num-seqs=8"]) == (1, 3, ["--max-num-seqs=8"], True)
    assert config(answers[f"{update} --gpu 0"]) == (0, 3, ["--max-num-seqs=8"], True)
    assert config(answers[f"{update} --clear-extra-args"]) == (0, 3, [], True)
    assert config(answers[f"{update} --disable-on-demand-allocation"]) == (0, 3, [], False)
    assert config(answers["llma models get tiny"]) == (0, 3, [], False)


def test_zero_values_that_the_client_omits_are_zeros(answers: dict[str, Any]) -> None:
    base, shared = (answer for command, answer in answers.items() if command.startswith("llma models create base"))
    assert config(base) == (0, 2, [], True)
    assert config(shared) == (1, 1, [], False)


def test_a_wrapped_key_and_a_wrapped_project_are_updated(answers: dict[str, Any]) -> None:
    assert answers["llma auth api-keys update ours --new-name renamed"]["name"] == "renamed"
    [project] = [answer for command, answer in answers.items() if command.startswith("llma admin projects update")]
    assert (project["title"], project["assignments"][0]["namespace"]) == ("Sight", "sight")


MODEL = {"model": {"config": {"runtime_config": {"replicas": 2}}}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({**MODEL, "update_mask": "config.runtimeConfig.replica"}, "update_mask"),
    ({**MODEL, "update_mask": "ownedBy"}, "update_mask"),
    (MODEL, "update_mask"),
    ({"model": {"config": {"runtime_config": {}}}, "update_mask": "config.runtimeConfig.replicas"}, "replicas"),
    ({"model": {"config": {"runtime_config": {"replica": 2}}}, "update_mask": "config"}, "replica"),
    ({**MODEL, "config": {}, "update_mask": "config"}, "config"),
    (
        {
            "model": {"config": {"cluster_allocation_policy": {"allowed_cluster_ids": ["far"]}}},
            "update_mask": "config",
        },
        "allowed_cluster_ids",
    ),
]


@pytest.mark.parametrize(("body", "param"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_an_unknown_field_of_a_mask_or_configuration_is_rejected(
    body: dict[str, Any], param: str, ask: Ask, admin: dict[str, str]
) -> None:
    answer = ask("models", HttpRequest("PATCH", "/v1/models/tiny", body, admin))
    assert answer.status == 400, answer.body
    assert str(answer.error["param"]).split(".")[-1] == param


def test_two_different_masks_are_rejected(ask: Ask, admin: dict[str, str]) -> None:
    body = {**MODEL, "update_mask": "config.runtime_config.replicas"}
    answer = ask("models", HttpRequest("PATCH", "/v1/models/tiny", body, admin, "update_mask=config"))
    assert_error(answer, 400, None)
    assert answer.error["param"] == "update_mask"


def test_a_mask_does_not_remove_a_restriction_absent_from_the_body(ask: Ask, admin: dict[str, str]) -> None:
    asked = {"name": "masked", "scopes": ["api.model.read"], "allowed_models": ["tiny"]}
    made = ask("api_keys", HttpRequest("POST", "/v1/api_keys", asked, admin)).json
    for mask in ("scopes", "allowedModels", "name,allowed_models"):
        body = {"api_key": {"name": "masked"}, "update_mask": mask}
        answer = ask("api_keys", HttpRequest("PATCH", f"/v1/api_keys/{made['id']}", body, admin))
        assert answer.status == 400, answer.body
    whole = {"api_key": {**made, "name": "still narrow"}, "update_mask": "name"}
    answer = ask("api_keys", HttpRequest("PATCH", f"/v1/api_keys/{made['id']}", whole, admin))
    assert answer.status == 200, answer.body
    assert (answer.json["name"], answer.json["scopes"]) == ("still narrow", ["api.model.read"])


# Fields of LLMariner's messages. A model's `project` is not returned (docs/api.md).
MODEL_FIELDS = {
    "id",
    "created",
    "object",
    "owned_by",
    "loading_status",
    "source_repository",
    "loading_failure_reason",
    "loading_status_message",
    "formats",
    "is_base_model",
    "base_model_id",
    "activation_status",
    "config",
}
KEY_FIELDS = {
    "id",
    "object",
    "name",
    "secret",
    "created_at",
    "user",
    "organization",
    "project",
    "organization_role",
    "project_role",
    "excluded_from_rate_limiting",
}
PROJECT_FIELDS = {
    "id",
    "title",
    "assignments",
    "kubernetes_namespace",
    "organization_id",
    "created_at",
    "summary",
    "is_default",
}
USER_FIELDS = {
    "id",
    "internal_id",
    "is_service_account",
    "hidden",
    "organization_role_bindings",
    "project_role_bindings",
}
MESSAGES: dict[str, tuple[str, set[str]]] = {
    "llma models list": ("data", MODEL_FIELDS),
    "llma models get tiny": ("", MODEL_FIELDS),
    "llma auth api-keys create ours": ("", KEY_FIELDS),
    "llma auth api-keys list": ("data", KEY_FIELDS),
    "llma auth status": ("", USER_FIELDS),
    "llma admin users list": ("users", USER_FIELDS),
    "llma admin organizations create Others2": ("", {"id", "title", "created_at", "summary", "is_default"}),
    "llma admin organizations list": ("organizations", {"id", "title", "created_at", "summary", "is_default"}),
    "llma admin organizations list-members Others2": (
        "users",
        {"user_id", "internal_user_id", "organization_id", "role"},
    ),
    "llma admin projects list": ("projects", PROJECT_FIELDS),
    "llma admin projects list-members Sight": ("users", {"user_id", "project_id", "organization_id", "role"}),
}


@pytest.mark.parametrize("command", MESSAGES)
def test_every_field_of_the_clients_message_exists(command: str, answers: dict[str, Any]) -> None:
    where, fields = MESSAGES[command]
    documents = answers[command][where] if where else [answers[command]]
    assert documents
    for document in documents:
        assert fields - set(document) == set()
