"""Errors of OpenAI's admin API name the field that the caller sent, and not its internal name."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.tenancy.roles.custom_roles import CustomRoles

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse
from .installation import Installation
from .test_bodies import BODIES, with_ids

LONG = "x" * 300
ROLE = {"role_name": [7, "", LONG, "owner"], "permissions": [7, [], ["api.nothing"]], "description": [7, "x" * 2001]}
SECONDS = [0, -1, "60", 1.5]
WRONG: dict[str, dict[str, list[Any]]] = {
    "POST /v1/organization/projects": {"name": [7, None, "", " ", LONG, "a\nb", "Spare"], "geography": [7]},
    "POST /v1/organization/projects/SPARE": {"name": [7, "", LONG]},
    "POST /v1/organization/projects/SPARE/model_permissions": {
        "mode": [7, "some"],
        "model_ids": ["x", [7], ["x"] * 10_001],
    },
    "POST /v1/organization/projects/SPARE/users": {"user_id": [7, "user_nobody"], "role": [7, "", "boss", "role_no"]},
    "POST /v1/organization/projects/SPARE/service_accounts": {
        "name": [7, "", LONG],
        "role": [7, "", "boss"],
        "expires_in_seconds": SECONDS,
    },
    "POST /v1/organization/projects/SPARE/api_keys": {
        "name": [7, LONG],
        "scopes": [7, [7], ["api.nothing"]],
        "expires_in_seconds": SECONDS,
    },
    "POST /v1/organization/projects/SPARE/groups": {"group_id": [7, "group_nobody"], "role": [7]},
    "POST /v1/organization/admin_api_keys": {"name": [7, "", LONG], "expires_in_seconds": SECONDS},
    "POST /v1/organization/roles": ROLE,
    "POST /v1/projects/SPARE/roles": {**ROLE, "permissions": [*ROLE["permissions"], ["api.organizations.write"]]},
    "POST /v1/organization/groups": {"name": [7, "", LONG]},
    "POST /v1/organization/invites": {
        "email": [7, "", "ann", "a b@c"],
        "role": [7, "", "boss"],
        "projects": [7, [7], [{"id": "proj_nobody"}], [{"id": "SPARE", "role": "boss"}]],
        "expires_in_seconds": SECONDS,
    },
    "POST /v1/organization/spend_limit": {"currency": ["EUR"], "interval": ["day"], "threshold_amount": [-1, "5"]},
    "POST /v1/organization/spend_alerts": {
        "threshold_amount": [-1, 1.5],
        "notification_channel": [7, {"type": "sms"}, {"type": "email", "recipients": []}],
    },
}
CASES = [(route, field, value) for route in WRONG for field in WRONG[route] for value in WRONG[route][field]]


@pytest.fixture(autouse=True)
def issuer(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(installation.context.env, "LLMARINER_OIDC_ISSUER", "https://issuer.example")


@pytest.mark.parametrize(("route", "field", "value"), CASES, ids=lambda value: str(value)[:30])
def test_an_invalid_field_has_the_name_that_was_sent(
    route: str, field: str, value: Any, ask: Ask, admin: dict[str, str], installation: Installation
) -> None:
    name, body = BODIES[route]
    method, path = with_ids(route, installation).split()
    answer = ask(name, HttpRequest(method, path, {**body, field: value}, admin))
    assert answer.status in (400, 404, 409), answer.body
    assert named(answer) == field, answer.body
    message = answer.error["message"]
    assert not any(f"'{inside}'" in message for inside in {"title", "scopes"} - {field}), message


def named(answer: HttpResponse) -> str:
    return str(answer.error["param"]).split("[")[0].split(".")[0]


@pytest.mark.parametrize("field", ["role_name", "permissions"])
def test_an_invalid_field_of_a_role_change_has_the_name_that_was_sent(
    field: str, ask: Ask, admin: dict[str, str], installation: Installation
) -> None:
    owner = installation.owner
    caller = installation.context.authenticator.caller_for_user(owner.user_id, owner.organization_id)
    role = CustomRoles(installation.context.database).create(caller, f"changes {field}", ["api.files.read"])
    for value in ROLE[field]:
        body = {field: value}
        answer = ask("organization_roles", HttpRequest("POST", f"/v1/organization/roles/{role.id}", body, admin))
        assert (answer.status in (400, 409), named(answer)) == (True, field), answer.body
