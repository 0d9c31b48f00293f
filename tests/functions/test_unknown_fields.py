"""Unknown and duplicate fields are rejected in bodies of administrative routes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from openai.types.admin import organization as of_organization
from openai.types.admin.organization import projects as of_project
from openai.types.admin.organization.projects import service_accounts as of_account

from .conftest import Ask
from .declared_routes import TOKEN_PATH, WITH_TOKENS_OF_THEIR_OWN
from .http_calls import HttpRequest, HttpResponse, assert_error
from .installation import Installation
from .test_bodies import BODIES, with_ids

ADMINISTRATIVE = [route for route in BODIES if BODIES[route][0] not in TOKEN_PATH | WITH_TOKENS_OF_THEIR_OWN]
Send = Callable[[str, Any], HttpResponse]


@pytest.fixture
def send(ask: Ask, admin: dict[str, str], installation: Installation) -> Send:
    """Send a body to a route of `BODIES`, as the administrator."""

    def sent(route: str, body: Any) -> HttpResponse:
        method, path = with_ids(route, installation).split()
        return ask(BODIES[route][0], HttpRequest(method, path, body, admin))

    return sent


@pytest.mark.parametrize("route", ADMINISTRATIVE)
def test_an_unknown_field_is_rejected(route: str, send: Send) -> None:
    answer = send(route, {**BODIES[route][1], "surely_unknown": 1})
    assert_error(answer, 400, "unknown_parameter")
    assert answer.error["param"] == "surely_unknown"


@pytest.mark.parametrize("route", ADMINISTRATIVE)
def test_a_duplicate_field_is_rejected(route: str, send: Send) -> None:
    name, value = next(iter({"name": "x", **BODIES[route][1]}.items()))
    rest = json.dumps(BODIES[route][1]).removeprefix("{")
    first = "{" + f"{json.dumps(name)}: {json.dumps(value)}, {json.dumps(name)}: null"
    answer = send(route, f"{first}{', ' if rest != '}' else ''}{rest}".encode())
    assert_error(answer, 400, "duplicate_parameter")
    assert answer.error["param"] == name


MISSPELLED: list[tuple[str, Mapping[str, Any], str, str]] = [
    ("POST /v1/api_keys", {"models": ["tiny"]}, "models", "allowed_models"),
    ("POST /v1/api_keys", {"scope": ["api.model.read"]}, "scope", "scopes"),
    ("POST /v1/api_keys", {"expires_in": 60}, "expires_in", "expires_in_seconds"),
    ("POST /v1/api_keys", {"allowedSources": ["10.0.0.1"]}, "allowedSources", "allowed_sources"),
    ("PATCH /v1/api_keys/key_1", {"api_key": {"scope": []}}, "api_key.scope", "api_key.scopes"),
    ("POST /v1/organization/admin_api_keys", {"expires_in": 60}, "expires_in", "expires_in_seconds"),
    ("POST /v1/organization/projects/SPARE/service_accounts", {"expires": 60}, "expires", "expires_in_seconds"),
    ("POST /v1/budgets", {"Hard": False}, "Hard", "hard"),
    ("POST /v1/limits", {"request_per_day": 5}, "request_per_day", "requests_per_day"),
    (
        "POST /v1/organization/invites",
        {"projects": [{"id": "proj_1", "rôle": "member"}]},
        "projects.0.rôle",
        "projects.0.role",
    ),
    (
        "POST /v1/organizations/HERE/projects",
        {"assignments": [{"namespace": "a", "node_selectors": []}]},
        "assignments.0.node_selectors",
        "assignments.0.node_selector",
    ),
]


@pytest.mark.parametrize(("route", "wrong", "param", "nearest"), MISSPELLED, ids=[case[2] for case in MISSPELLED])
def test_the_nearest_known_field_is_suggested(
    route: str, wrong: Mapping[str, Any], param: str, nearest: str, send: Send
) -> None:
    answer = send(route, {**BODIES[route][1], **wrong})
    assert_error(answer, 400, "unknown_parameter")
    assert answer.error["param"] == param
    assert f"did you mean '{nearest}'?" in answer.error["message"]


def test_nothing_is_created_by_a_body_with_an_unknown_field(send: Send, ask: Ask, admin: dict[str, str]) -> None:
    assert send("POST /v1/api_keys", {"name": "unrestricted by mistake", "models": ["tiny"]}).status == 400
    keys = ask("api_keys", HttpRequest("GET", "/v1/api_keys", None, admin)).json["data"]
    assert "unrestricted by mistake" not in {key["name"] for key in keys}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_does_not_have_is_rejected(number: str, send: Send) -> None:
    body = f'{{"subject": "user", "subject_id": "x", "period": "day", "amount": {number}}}'.encode()
    assert_error(send("POST /v1/budgets", body), 400, "invalid_json")


P, G = "POST /v1/organization/projects", "POST /v1/organization/groups"
PARAMETERS: dict[str, Any] = {
    P: of_organization.ProjectCreateParams,
    f"{P}/SPARE": of_organization.ProjectUpdateParams,
    f"{P}/SPARE/users": of_project.UserCreateParams,
    f"{P}/SPARE/users/user_1": of_project.UserUpdateParams,
    f"{P}/SPARE/service_accounts": of_project.ServiceAccountCreateParams,
    f"{P}/SPARE/service_accounts/user_1": of_project.ServiceAccountUpdateParams,
    f"{P}/SPARE/service_accounts/user_1/api_keys": of_account.APIKeyCreateParams,
    f"{P}/SPARE/api_keys/key_1": of_project.APIKeyUpdateParams,
    f"{P}/SPARE/rate_limits/rl-1": of_project.RateLimitUpdateRateLimitParams,
    f"{P}/SPARE/model_permissions": of_project.ModelPermissionUpdateParams,
    f"{P}/SPARE/groups": of_project.GroupCreateParams,
    f"{P}/SPARE/spend_limit": of_project.SpendLimitUpdateParams,
    f"{P}/SPARE/spend_alerts": of_project.SpendAlertCreateParams,
    f"{P}/SPARE/spend_alerts/alert_1": of_project.SpendAlertUpdateParams,
    G: of_organization.GroupCreateParams,
    f"{G}/group_1": of_organization.GroupUpdateParams,
    "POST /v1/organization/admin_api_keys": of_organization.AdminAPIKeyCreateParams,
    "POST /v1/organization/invites": of_organization.InviteCreateParams,
    "POST /v1/organization/roles": of_organization.RoleCreateParams,
    "POST /v1/organization/roles/role_1": of_organization.RoleUpdateParams,
    "POST /v1/organization/spend_limit": of_organization.SpendLimitUpdateParams,
    "POST /v1/organization/spend_alerts": of_organization.SpendAlertCreateParams,
    "POST /v1/organization/users/user_1": of_organization.UserUpdateParams,
    "POST /v1/projects/SPARE/roles": of_project.RoleCreateParams,
    "POST /v1/projects/SPARE/roles/role_1": of_project.RoleUpdateParams,
}
OF_THE_PATH = {"project_id"}


@pytest.mark.parametrize("route", PARAMETERS)
def test_every_parameter_of_openais_client_is_accepted(route: str, send: Send) -> None:
    parameters = set(PARAMETERS[route].__annotations__) - OF_THE_PATH
    assert parameters
    for name in parameters:
        answer = send(route, {name: None})
        assert answer.status == 200 or answer.error["code"] != "unknown_parameter", answer.body
