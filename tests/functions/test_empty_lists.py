"""Restriction lists: null means all and an empty list is rejected, on every route that sets one."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.tenancy.keys.store import KeySelector
from llmariner.tenancy.members.service_accounts import ServiceAccounts

from .company import Company
from .conftest import Ask
from .http_calls import HttpResponse, assert_error
from .installation import Installation

KEYS = "/v1/organization/projects/VISION/api_keys"


@pytest.fixture(scope="module")
def company(installation: Installation, ask: Ask) -> Company:
    return Company(installation, ask)


@pytest.fixture(scope="module")
def ids(company: Company) -> dict[str, str]:
    """A narrow key, a service account, a role of the organization and one of the project."""
    key = company.ask("POST /v1/api_keys", {"name": "narrow", "scopes": ["api.model.read"]}).json["id"]
    accounts = ServiceAccounts(company.context.database)
    account = accounts.create(company.founder, company.vision, "ci").id
    role = company.roles.create(company.founder, "reads", ["api.audit.read"]).id
    there = company.roles.create(company.founder, "reads", ["api.model.read"], project_id=company.vision).id
    return {"KEY": key, "ACCOUNT": account, "ROLE": role, "THERE": there}


WAYS: list[tuple[str, dict[str, Any], str]] = [
    ("POST /v1/api_keys", {"name": "a"}, "scopes"),
    ("POST /v1/api_keys", {"name": "a"}, "allowed_models"),
    ("POST /v1/api_keys", {"name": "a"}, "allowed_sources"),
    ("POST /v1/api_keys", {"name": "a", "is_service_account": True, "role": "reader"}, "scopes"),
    ("PATCH /v1/api_keys/KEY", {}, "scopes"),
    ("PATCH /v1/api_keys/KEY", {}, "allowed_models"),
    ("PATCH /v1/api_keys/KEY", {}, "allowed_sources"),
    ("POST /v1/organizations/HERE/projects/VISION/api_keys", {"name": "a"}, "scopes"),
    (f"POST {KEYS}", {"name": "a"}, "scopes"),
    (f"POST {KEYS}/KEY", {}, "scopes"),
    ("POST /v1/organization/projects/VISION/service_accounts/ACCOUNT/api_keys", {"name": "a"}, "scopes"),
    ("POST /v1/organization/roles", {"role_name": "a"}, "permissions"),
    ("POST /v1/organization/roles/ROLE", {}, "permissions"),
    ("POST /v1/projects/VISION/roles", {"role_name": "a"}, "permissions"),
    ("POST /v1/projects/VISION/roles/THERE", {}, "permissions"),
]


def asked(company: Company, ids: dict[str, str], route: str, body: dict[str, Any]) -> HttpResponse:
    for word, value in ids.items():
        route = route.replace(word, value)
    return company.ask(route, body)


@pytest.mark.parametrize(("route", "body", "field"), WAYS)
def test_an_empty_list_is_rejected(
    route: str, body: dict[str, Any], field: str, company: Company, ids: dict[str, str]
) -> None:
    answer = asked(company, ids, route, {**body, field: []})
    assert_error(answer, 400, None)
    assert answer.error["param"] == field
    [narrow] = [each for each in company.context.keys.matching(_all(company)) if each.id == ids["KEY"]]
    assert narrow.scopes == {"api.model.read"}


def test_a_project_with_an_empty_model_list_may_use_no_model(company: Company) -> None:
    path = "POST /v1/organization/projects/SPEECH/model_permissions"
    assert company.ask(path, {"mode": "allow_list", "model_ids": []}).status == 200
    found = company.context.authenticator.authenticate(company.secrets["sam"])
    assert found is not None
    key = company.context.keys.by_secret(company.secrets["sam"])
    assert key is not None
    assert key.project_models == ("allow", frozenset())


def _all(company: Company) -> Any:
    return KeySelector(company.id)
