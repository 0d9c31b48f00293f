"""Responses of OpenAI's admin API have the types, enum values and fields that OpenAI's own client declares.

The client's types have a default for each field that may be null, so they alone accept an answer without it: here every
field that a type declares must be in the answer, but for those in `ABSENT`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
from openai.types.admin import organization as of_organization
from openai.types.admin.organization import groups as of_group
from openai.types.admin.organization import projects as of_project
from openai.types.admin.organization import users as of_user
from openai.types.admin.organization.projects import groups as of_project_group
from openai.types.admin.organization.projects import service_accounts as of_account
from openai.types.admin.organization.projects import users as of_project_user
from pydantic import BaseModel

from .company import Company
from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient
from .installation import Installation

ORGANIZATION, PROJECT = "/organization", "/organization/projects/{project}"
KEYS, ACCOUNTS = f"{PROJECT}/api_keys", f"{PROJECT}/service_accounts"
ASSIGNED = f"{ORGANIZATION}/users/{{user}}/roles"
IN_PROJECT = "/projects/{project}/users/{user}/roles"
OF_GROUP = f"{ORGANIZATION}/groups/{{group}}/roles"
GROUP_IN_PROJECT = "/projects/{project}/groups/{group}/roles"
SPENDING = {"currency": "USD", "interval": "month", "threshold_amount": 10**9}
ALERT = {**SPENDING, "notification_channel": {"type": "email", "recipients": ["ann@example.org"]}}
ROLE = {"role_name": "auditor", "permissions": ["api.events.read"], "description": "reads events"}
WINDOW = f"start_time={int(time.time()) // 86400 * 86400 - 86400}"

# Name in braces that the id of the answer is kept under; method, path, body or query; what a client reads it as.
Call = tuple[str, str, str, Any, Any]
CALLS: list[Call] = [
    ("project", "POST", f"{ORGANIZATION}/projects", {"name": "Shapes"}, of_organization.Project),
    ("", "GET", f"{ORGANIZATION}/projects", None, list[of_organization.Project]),
    ("", "GET", PROJECT, None, of_organization.Project),
    ("", "POST", PROJECT, {"name": "Shapes 2"}, of_organization.Project),
    ("", "GET", f"{ORGANIZATION}/users", None, list[of_organization.OrganizationUser]),
    ("", "GET", f"{ORGANIZATION}/users/{{user}}", None, of_organization.OrganizationUser),
    ("", "POST", f"{ORGANIZATION}/users/{{user}}", {"role": "reader"}, of_organization.OrganizationUser),
    ("role", "POST", f"{ORGANIZATION}/roles", ROLE, of_organization.Role),
    ("", "GET", f"{ORGANIZATION}/roles", None, list[of_organization.Role]),
    ("", "GET", f"{ORGANIZATION}/roles/{{role}}", None, of_organization.Role),
    ("", "POST", f"{ORGANIZATION}/roles/{{role}}", {"role_name": "reviewer"}, of_organization.Role),
    ("", "POST", ASSIGNED, {"role_id": "{role}"}, of_user.RoleCreateResponse),
    ("", "GET", ASSIGNED, None, list[of_user.RoleListResponse]),
    ("", "GET", f"{ASSIGNED}/{{role}}", None, of_user.RoleRetrieveResponse),
    ("", "DELETE", f"{ASSIGNED}/{{role}}", None, of_user.RoleDeleteResponse),
    ("", "POST", f"{PROJECT}/users", {"user_id": "{user}", "role": "member"}, of_project.ProjectUser),
    ("", "GET", f"{PROJECT}/users", None, list[of_project.ProjectUser]),
    ("", "GET", f"{PROJECT}/users/{{user}}", None, of_project.ProjectUser),
    ("", "POST", f"{PROJECT}/users/{{user}}", {"role": "owner"}, of_project.ProjectUser),
    ("of_project", "POST", "/projects/{project}/roles", ROLE, of_organization.Role),
    ("", "GET", "/projects/{project}/roles", None, list[of_organization.Role]),
    ("", "GET", "/projects/{project}/roles/{of_project}", None, of_organization.Role),
    ("", "POST", "/projects/{project}/roles/{of_project}", {"description": "x"}, of_organization.Role),
    ("", "POST", IN_PROJECT, {"role_id": "{of_project}"}, of_project_user.RoleCreateResponse),
    ("", "GET", IN_PROJECT, None, list[of_project_user.RoleListResponse]),
    ("", "GET", f"{IN_PROJECT}/{{of_project}}", None, of_project_user.RoleRetrieveResponse),
    ("", "DELETE", f"{IN_PROJECT}/{{of_project}}", None, of_project_user.RoleDeleteResponse),
    ("", "DELETE", "/projects/{project}/roles/{of_project}", None, of_project.RoleDeleteResponse),
    ("", "DELETE", f"{PROJECT}/users/{{user}}", None, of_project.UserDeleteResponse),
    ("group", "POST", f"{ORGANIZATION}/groups", {"name": "staff"}, of_organization.Group),
    ("", "GET", f"{ORGANIZATION}/groups", None, list[of_organization.Group]),
    ("", "GET", f"{ORGANIZATION}/groups/{{group}}", None, of_organization.Group),
    ("", "POST", f"{ORGANIZATION}/groups/{{group}}", {"name": "people"}, of_organization.GroupUpdateResponse),
    ("", "POST", OF_GROUP, {"role_id": "{role}"}, of_group.RoleCreateResponse),
    ("", "GET", OF_GROUP, None, list[of_group.RoleListResponse]),
    ("", "GET", f"{OF_GROUP}/{{role}}", None, of_group.RoleRetrieveResponse),
    ("", "DELETE", f"{OF_GROUP}/{{role}}", None, of_group.RoleDeleteResponse),
    ("", "GET", f"{ORGANIZATION}/groups/{{group}}/users", None, list[of_group.OrganizationGroupUser]),
    ("", "POST", f"{PROJECT}/groups", {"group_id": "{group}", "role": "member"}, of_project.ProjectGroup),
    ("", "GET", f"{PROJECT}/groups", None, list[of_project.ProjectGroup]),
    ("", "GET", f"{PROJECT}/groups/{{group}}", None, of_project.ProjectGroup),
    ("", "POST", GROUP_IN_PROJECT, {"role_id": "viewer"}, of_project_group.RoleCreateResponse),
    ("", "GET", GROUP_IN_PROJECT, None, list[of_project_group.RoleListResponse]),
    ("", "GET", f"{GROUP_IN_PROJECT}/viewer", None, of_project_group.RoleRetrieveResponse),
    ("", "DELETE", f"{GROUP_IN_PROJECT}/viewer", None, of_project_group.RoleDeleteResponse),
    ("", "POST", f"{PROJECT}/groups", {"group_id": "{group}", "role": "member"}, of_project.ProjectGroup),
    ("", "DELETE", f"{PROJECT}/groups/{{group}}", None, of_project.GroupDeleteResponse),
    ("", "DELETE", f"{ORGANIZATION}/groups/{{group}}", None, of_organization.GroupDeleteResponse),
    ("", "DELETE", f"{ORGANIZATION}/roles/{{role}}", None, of_organization.RoleDeleteResponse),
    ("account", "POST", ACCOUNTS, {"name": "ci"}, of_project.ServiceAccountCreateResponse),
    ("", "GET", ACCOUNTS, None, list[of_project.ProjectServiceAccount]),
    ("", "GET", f"{ACCOUNTS}/{{account}}", None, of_project.ProjectServiceAccount),
    ("", "POST", f"{ACCOUNTS}/{{account}}", {"role": "owner"}, of_project.ProjectServiceAccount),
    ("key", "POST", f"{ACCOUNTS}/{{account}}/api_keys", {"name": "second"}, of_account.APIKeyCreateResponse),
    ("", "GET", KEYS, None, list[of_project.ProjectAPIKey]),
    ("", "GET", f"{KEYS}/{{key}}", None, of_project.ProjectAPIKey),
    ("", "POST", f"{KEYS}/{{key}}", {"scopes": ["api.model.read"], "expires_in_seconds": 60}, of_project.ProjectAPIKey),
    ("", "DELETE", f"{KEYS}/{{key}}", None, of_project.APIKeyDeleteResponse),
    ("", "DELETE", f"{ACCOUNTS}/{{account}}", None, of_project.ServiceAccountDeleteResponse),
    ("", "GET", f"{PROJECT}/model_permissions", None, of_project.ProjectModelPermissions),
    (
        "",
        "POST",
        f"{PROJECT}/model_permissions",
        {"mode": "allow_list", "model_ids": ["tiny"]},
        of_project.ProjectModelPermissions,
    ),
    ("", "DELETE", f"{PROJECT}/model_permissions", None, of_project.ProjectModelPermissionsDeleted),
    ("", "GET", f"{PROJECT}/rate_limits", None, list[of_project.ProjectRateLimit]),
    ("", "POST", f"{PROJECT}/rate_limits/rl-dGlueQ", {"max_requests_per_1_minute": 9}, of_project.ProjectRateLimit),
    ("", "POST", f"{PROJECT}/rate_limits/rl-dGlueQ", {}, of_project.ProjectRateLimit),
    ("", "POST", f"{PROJECT}/rate_limits/rl-dGlueQ", {"max_images_per_1_minute": 0}, of_project.ProjectRateLimit),
    ("", "POST", f"{PROJECT}/spend_limit", SPENDING, of_project.ProjectSpendLimit),
    ("", "GET", f"{PROJECT}/spend_limit", None, of_project.ProjectSpendLimit),
    ("", "DELETE", f"{PROJECT}/spend_limit", None, of_project.ProjectSpendLimitDeleted),
    ("alert", "POST", f"{PROJECT}/spend_alerts", ALERT, of_project.ProjectSpendAlert),
    ("", "GET", f"{PROJECT}/spend_alerts", None, list[of_project.ProjectSpendAlert]),
    ("", "GET", f"{PROJECT}/spend_alerts/{{alert}}", None, of_project.ProjectSpendAlert),
    ("", "POST", f"{PROJECT}/spend_alerts/{{alert}}", {**ALERT, "threshold_amount": 0}, of_project.ProjectSpendAlert),
    ("", "DELETE", f"{PROJECT}/spend_alerts/{{alert}}", None, of_project.ProjectSpendAlertDeleted),
    ("", "POST", f"{ORGANIZATION}/spend_limit", SPENDING, of_organization.OrganizationSpendLimit),
    ("", "GET", f"{ORGANIZATION}/spend_limit", None, of_organization.OrganizationSpendLimit),
    ("", "DELETE", f"{ORGANIZATION}/spend_limit", None, of_organization.OrganizationSpendLimitDeleted),
    ("whole", "POST", f"{ORGANIZATION}/spend_alerts", ALERT, of_organization.OrganizationSpendAlert),
    ("", "GET", f"{ORGANIZATION}/spend_alerts", None, list[of_organization.OrganizationSpendAlert]),
    ("", "GET", f"{ORGANIZATION}/spend_alerts/{{whole}}", None, of_organization.OrganizationSpendAlert),
    ("", "POST", f"{ORGANIZATION}/spend_alerts/{{whole}}", ALERT, of_organization.OrganizationSpendAlert),
    ("", "DELETE", f"{ORGANIZATION}/spend_alerts/{{whole}}", None, of_organization.OrganizationSpendAlertDeleted),
    (
        "invite",
        "POST",
        f"{ORGANIZATION}/invites",
        {"email": "asked@shapes.example", "role": "reader", "projects": [{"id": "{project}", "role": "member"}]},
        of_organization.Invite,
    ),
    ("", "GET", f"{ORGANIZATION}/invites", None, list[of_organization.Invite]),
    ("", "GET", f"{ORGANIZATION}/invites/{{invite}}", None, of_organization.Invite),
    ("", "DELETE", f"{ORGANIZATION}/invites/{{invite}}", None, of_organization.InviteDeleteResponse),
    ("admin", "POST", f"{ORGANIZATION}/admin_api_keys", {"name": "shapes"}, of_organization.AdminAPIKeyCreateResponse),
    ("", "GET", f"{ORGANIZATION}/admin_api_keys", None, list[of_organization.AdminAPIKey]),
    ("", "GET", f"{ORGANIZATION}/admin_api_keys/{{admin}}", None, of_organization.AdminAPIKey),
    ("", "DELETE", f"{ORGANIZATION}/admin_api_keys/{{admin}}", None, of_organization.AdminAPIKeyDeleteResponse),
    ("", "GET", f"{ORGANIZATION}/usage/completions", WINDOW, of_organization.UsageCompletionsResponse),
    ("", "GET", f"{ORGANIZATION}/usage/embeddings", WINDOW, of_organization.UsageEmbeddingsResponse),
    ("", "GET", f"{ORGANIZATION}/costs", WINDOW, of_organization.UsageCostsResponse),
    ("", "POST", f"{PROJECT}/archive", {}, of_organization.Project),
    ("", "DELETE", f"{ORGANIZATION}/users/{{user}}", None, of_organization.UserDeleteResponse),
    ("", "GET", f"{ORGANIZATION}/audit_logs", "limit=100", list[of_organization.AuditLogListResponse]),
]
# What this platform does not support.
ABSENT: dict[type[BaseModel], set[str]] = {
    of_organization.Project: {"residency"},
    of_project.ProjectRateLimit: {
        "batch_1_day_max_input_tokens",
        "max_audio_megabytes_per_1_minute",
        "max_images_per_1_minute",
        "max_requests_per_1_day",
    },
}
_OF_EVERY_ENTRY = {"id", "effective_at", "type", "actor"}
"""Of an entry of the audit log, beside the payload that stands under its type's name."""


@pytest.fixture(scope="module")
def answers(
    router: Any, in_process: InProcessClient, installation: Installation, ask: Ask
) -> Iterator[list[tuple[Call, HttpResponse]]]:
    """Each call with its answer, in order, in an organization of their own."""
    company = Company(installation, ask)
    admin = {"authorization": f"Bearer {company.secrets['boss']}"}
    issuer = "LLMARINER_OIDC_ISSUER"
    installation.context.env[issuer] = "https://issuer.example"  # type: ignore[index]
    made = HttpRequest(
        "POST",
        f"/v1/organizations/{company.id}/users",
        {"user_id": "ann@shapes.example", "role": "reader"},
        admin,
    )
    ids = {"{user}": in_process.send(router, made).json["internal_user_id"]}
    found = []
    for call in CALLS:
        name, method, path, said, _ = call
        query, body = (said, None) if isinstance(said, str) else ("", said)
        for brace, id_ in ids.items():
            path = path.replace(brace, id_)
            body = _replaced(body, brace, id_)
        answer = in_process.send(router, HttpRequest(method, f"/v1{path}", body, admin, query))
        assert answer.status == 200, (call, answer.body)
        if name:
            ids["{" + name + "}"] = answer.json["id"]
        found.append((call, answer))
    yield found
    del installation.context.env[issuer]  # type: ignore[attr-defined]


def _replaced(value: Any, brace: str, id_: str) -> Any:
    if isinstance(value, dict):
        return {name: _replaced(each, brace, id_) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, brace, id_) for each in value]
    return value.replace(brace, id_) if isinstance(value, str) else value


@pytest.mark.parametrize("number", range(len(CALLS)), ids=[f"{method} {path}" for _, method, path, _, _ in CALLS])
def test_a_response_has_the_clients_type(number: int, answers: list[tuple[Call, HttpResponse]]) -> None:
    (_, _, _, _, model), answer = answers[number]
    documents = [answer.json]
    of_list: Any = get_origin(model)
    if of_list is list:
        [model] = get_args(model)
        documents = answer.json["data"]
        assert {"object", "data", "has_more"} <= set(answer.json)
        assert documents or model is of_group.OrganizationGroupUser
    for document in documents:
        model.model_validate(document, strict=True)
        declared = {field.alias or name for name, field in model.model_fields.items()}
        if model is of_organization.AuditLogListResponse:  # it declares the payload of every type
            declared = {*_OF_EVERY_ENTRY, document["type"]} & declared
        assert declared - ABSENT.get(model, set()) - set(document) == set()


def test_an_audit_log_entry_has_the_fields_of_its_type(
    answers: list[tuple[Call, HttpResponse]],
) -> None:
    def changes(type_: str) -> list[Any]:
        return [entry[type_]["changes_requested"] for entry in answers[-1][1].json["data"] if entry["type"] == type_]

    assert changes("rate_limit.updated") == [{"max_requests_per_1_minute": 9}]
    [key] = changes("api_key.updated")
    assert (key["scopes"], key["expires_in_seconds"]) == (["api.model.read"], 60)
    assert changes("role.updated")[-1] == {"role_name": "reviewer"}
