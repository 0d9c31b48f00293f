"""API keys over HTTP: restrictions, ownership, and the fields that only owners may set."""

from __future__ import annotations

import time

import pytest

from .company import Company
from .conftest import Ask
from .http_calls import HttpResponse, assert_error
from .installation import Installation

KEYS = "/v1/api_keys"


@pytest.fixture
def company(installation: Installation, ask: Ask) -> Company:
    return Company(installation, ask)


def names(answer: HttpResponse) -> list[str]:
    assert answer.status == 200, answer.body
    return sorted(key["name"] for key in answer.json["data"])


def test_owners_see_the_keys_of_their_projects(company: Company) -> None:
    assert names(company.ask(f"GET {KEYS}")) == ["boss's", "lead's", "mia's", "sam's", "vic's"]
    assert names(company.ask(f"GET {KEYS}", by="lead")) == ["boss's", "lead's", "mia's", "vic's"]
    for name in ("mia", "vic", "sam"):
        assert names(company.ask(f"GET {KEYS}", by=name)) == [f"{name}'s"]


def test_restrictions_of_a_key_are_stored_and_changed(company: Company) -> None:
    bound = {
        "name": "bound",
        "allowed_models": ["a/b"],
        "allowed_sources": ["10.0.0.0/8"],
        "scopes": ["api.model.read"],
    }
    made = company.ask(f"POST {KEYS}", {**bound, "expires_in_seconds": 60}, by="mia").json
    assert {name: made[name] for name in bound} == bound
    later = int(time.time()) + 3600
    change = {"allowed_models": None, "expires_at": later, "scopes": ["api.files.read"], "name": "ignored"}
    mask = "allowed_models,expires_at,scopes"
    changed = company.ask(f"PATCH {KEYS}/{made['id']}", {**change, "update_mask": mask}, by="mia").json
    assert (changed["allowed_models"], changed["expires_at"], changed["name"]) == (None, later, "bound")
    assert (changed["scopes"], changed["allowed_sources"]) == (["api.files.read"], ["10.0.0.0/8"])
    named = company.ask(f"PATCH {KEYS}/{made['id']}", {"name": "renamed"}, by="mia", query="update_mask=name")
    assert named.json["name"] == "renamed"
    more = company.ask(f"PATCH {KEYS}/{made['id']}", {"scopes": ["api.audit.read"]}, by="mia")
    assert_error(more, 400, None)
    assert more.error["param"] == "scopes[0]"


def test_only_an_organization_owner_removes_limits(company: Company) -> None:
    for name in ("lead", "mia"):
        made = company.ask(f"POST {KEYS}", {"name": f"free {name}", "excluded_from_rate_limiting": True}, by=name)
        assert_error(made, 403, "insufficient_permissions")
        plain = company.ask(f"POST {KEYS}", {"name": f"plain {name}"}, by=name).json
        lifted = company.ask(f"PATCH {KEYS}/{plain['id']}", {"excluded_from_rate_limiting": True}, by=name)
        assert_error(lifted, 403, "insufficient_permissions")
        lifted = company.ask(f"PATCH {KEYS}/{plain['id']}", {"excluded_from_rate_limiting": True})
        assert lifted.json["excluded_from_rate_limiting"] is True


def test_another_users_key_is_not_found(company: Company) -> None:
    [theirs] = [key for key in company.ask(f"GET {KEYS}").json["data"] if key["name"] == "vic's"]
    path = f"{KEYS}/{theirs['id']}"
    for by in ("mia", "sam", "outsider"):
        assert_error(company.ask(f"PATCH {path}", {"name": "stolen"}, by=by), 404, "not_found")
        assert_error(company.ask(f"POST {path}:rotate", {}, by=by), 404, "not_found")
        assert_error(company.ask(f"DELETE {path}", by=by), 404, "not_found")
    assert company.authenticates(company.secrets["vic"])
    rotated = company.ask(f"POST {path}:rotate", {}, by="lead").json
    assert (company.authenticates(company.secrets["vic"]), company.authenticates(rotated["secret"])) == (False, True)


def test_a_key_is_created_in_the_named_project(company: Company) -> None:
    there = {"name": "there", "project_id": company.speech, "organization_id": company.id}
    assert company.ask(f"POST {KEYS}", there).json["project"]["title"] == "Speech"
    assert_error(company.ask(f"POST {KEYS}", there, by="mia"), 404, "not_found")
    assert_error(company.ask(f"POST {KEYS}", {"name": "x", "organization_id": "org_2"}), 404, "not_found")
    assert_error(company.ask(f"POST {KEYS}", {"name": "x", "project_id": "proj_nobody"}), 404, "not_found")
    # The administrator of the installation reaches the organizations that they made.
    assert company.ask(f"POST {KEYS}", {**there, "name": f"by admin {company.number}"}, by="admin").status == 200


def test_a_service_account_is_created_with_its_key_and_deleted_with_it(company: Company) -> None:
    asked = {"name": "ci", "is_service_account": True, "role": "ORGANIZATION_ROLE_READER"}
    made = company.ask(f"POST {KEYS}", asked).json
    assert made["user"]["is_service_account"] is True
    assert made["user"]["id"] == f"system:serviceaccount:{company.vision}:ci"
    assert (made["organization_role"], made["project_role"]) == ("ORGANIZATION_ROLE_READER", "PROJECT_ROLE_OWNER")
    assert_error(company.ask(f"POST {KEYS}", asked), 409, "conflict")
    assert_error(company.ask(f"POST {KEYS}", {**asked, "name": "more"}, by="lead"), 403, "insufficient_permissions")
    refused = company.ask(f"POST {KEYS}", {"name": "none", "is_service_account": True})
    assert (refused.status, refused.error["param"]) == (400, "role")
    refused = company.ask(f"POST {KEYS}", {**asked, "name": "none", "scopes": ["api.clusters.read"]})
    assert (refused.status, refused.error["param"]) == (400, "scopes[0]")
    assert company.ask(f"DELETE {KEYS}/{made['id']}").json["deleted"]
    assert not company.authenticates(made["secret"])
    assert company.ask(f"POST {KEYS}", asked).status == 200


def test_a_key_without_a_project_creates_none(company: Company) -> None:
    role = company.roles.create(
        company.founder,
        "keys",
        ["api.organizations.projects.api_keys.write", "api.organizations.projects.read"],
    )
    company.add_user("kim", role.id)
    assert_error(company.ask(f"POST {KEYS}", {"name": "x"}, by="kim"), 400, "project_required")
    named = company.ask(f"POST {KEYS}", {"name": "x", "project_id": company.vision}, by="kim")
    assert_error(named, 403, "insufficient_permissions")


def test_a_key_works_only_from_its_networks(company: Company) -> None:
    def made(name: str, network: str) -> None:
        body = {"name": name, "allowed_sources": [network]}
        company.secrets[name] = company.ask(f"POST {KEYS}", body, by="mia").json["secret"]

    made("near", "127.0.0.0/8")
    made("far", "203.0.113.0/24")
    assert company.ask("GET /v1/users:getSelf", by="near").status == 200
    assert_error(company.ask("GET /v1/users:getSelf", by="far"), 403, "source_not_allowed")
    assert_error(company.ask(f"GET {KEYS}", by="far"), 403, "source_not_allowed")


def test_the_audit_log_has_the_client_address(company: Company) -> None:
    made = company.ask(f"POST {KEYS}", {"name": "logged"}, by="mia").json
    logged = company.ask("GET /v1/organization/audit_logs", query=f"resource_ids={made['id']}").json["data"][0]
    assert (logged["type"], logged["actor"]["api_key"]["ip_address"]) == ("api_key.created", "127.0.0.1")
    assert logged["actor"]["api_key"]["user"]["email"] == company.email("mia")


def test_a_rejected_key_leaves_no_service_account(company: Company) -> None:
    body = {"name": "robot", "is_service_account": True, "role": "ORGANIZATION_ROLE_READER"}
    wrong_ones: list[dict[str, list[str]]] = [
        {"allowed_sources": ["nowhere"]},
        {"allowed_models": []},
        {"scopes": ["api.audit.read"]},
    ]
    for wrong in wrong_ones:
        assert_error(company.ask(f"POST {KEYS}", {**body, **wrong}), 400, None)
    made = company.ask(f"POST {KEYS}", {**body, "allowed_sources": ["10.0.0.0/8"]})
    assert (made.status, made.json["allowed_sources"]) == (200, ["10.0.0.0/8"])
