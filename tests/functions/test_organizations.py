"""LLMariner's own administration over HTTP: permissions and responses."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.models.model import NewModel, SourceRepository

from .company import Company
from .conftest import Ask
from .http_calls import HttpResponse, assert_error
from .installation import Installation

O = "/v1/organizations/HERE"  # noqa: E741
V, S = f"{O}/projects/VISION", f"{O}/projects/SPEECH"


@pytest.fixture
def company(installation: Installation, ask: Ask) -> Company:
    return Company(installation, ask)


def titles(answer: HttpResponse, collection: str = "projects") -> list[str]:
    assert answer.status == 200, answer.body
    return [each["title"] for each in answer.json[collection]]


def emails(answer: HttpResponse) -> list[str]:
    assert answer.status == 200, answer.body
    return [each["user_id"].partition("-")[0] for each in answer.json["users"]]


def test_an_organization_has_its_fields(company: Company) -> None:
    [found] = company.ask("GET /v1/organizations").json["organizations"]
    assert (found["id"], found["title"], found["is_default"]) == (company.id, f"Company {company.number}", False)
    assert (isinstance(found["created_at"], int), found["summary"]) == (True, None)
    [found] = company.ask("GET /v1/organizations", query="include_summary=true").json["organizations"]
    assert found["summary"] == {"project_count": 2, "user_count": 7}
    mine = titles(company.ask("GET /v1/organizations", by="admin"), "organizations")
    assert mine[0] == "Default Organization"
    assert f"Company {company.number}" in mine
    assert titles(company.ask("GET /v1/organizations", by="outsider"), "organizations") == ["Others"]


def test_only_operators_create_organizations(company: Company) -> None:
    title = f"Branch {company.number}"
    for by in ("boss", "lead", "mia", "rob", "outsider"):
        assert_error(company.ask("POST /v1/organizations", {"title": title}, by=by), 403, "insufficient_permissions")
    made = company.ask("POST /v1/organizations", {"title": title}, by="admin")
    assert (made.status, made.json["title"]) == (200, title)
    assert_error(company.ask("POST /v1/organizations", {"title": title}, by="admin"), 409, "conflict")
    there = company.ask(f"GET /v1/organizations/{made.json['id']}/users", by="admin")
    assert [(each["user_id"], each["role"]) for each in there.json["users"]] == [
        ("admin@localhost", "ORGANIZATION_ROLE_OWNER")
    ]
    gone = company.ask(f"DELETE /v1/organizations/{made.json['id']}", by="admin")
    assert (gone.json["deleted"], gone.json["removed"]["users"]) == (True, ["admin@localhost"])
    assert_error(company.ask(f"DELETE /v1/organizations/{made.json['id']}", by="admin"), 404, "not_found")


def test_an_organization_with_projects_and_the_default_one_are_not_deleted(
    company: Company, installation: Installation
) -> None:
    refused = company.ask(f"DELETE {O}")
    assert_error(refused, 400, "in_use")
    assert [each["title"] for each in refused.error["in_the_way"]["projects"]] == ["Vision", "Speech"]
    default = company.ask(f"DELETE /v1/organizations/{installation.owner.organization_id}", by="admin")
    assert_error(default, 400, "default_organization")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (f"DELETE {O}", None),
        (f"GET {O}/users", None),
        (f"POST {O}/users", {"user_id": "a@example.org", "role": "owner"}),
        (f"DELETE {O}/users/a@example.org", None),
        (f"GET {O}/projects", None),
        (f"POST {O}/projects", {"title": "x"}),
        (f"PATCH {V}", {"title": "x"}),
        (f"DELETE {V}", None),
        (f"GET {V}/users", None),
        (f"POST {V}/users", {"user_id": "a@example.org", "role": "owner"}),
        (f"DELETE {V}/users/a@example.org", None),
        (f"GET {V}/api_keys", None),
        (f"POST {V}/api_keys", {"name": "x"}),
        (f"DELETE {V}/api_keys/key_1", None),
    ],
)
def test_another_organization_is_not_found(company: Company, route: str, body: Any) -> None:
    assert_error(company.ask(route, body, by="outsider"), 404, "not_found")
    assert_error(company.ask(route.replace("HERE", "org_nobody"), body), 404, "not_found")
    assert company.ask(f"GET {O}/projects", query="include_summary=true").json["projects"][0]["title"] == "Vision"


WHO = ("boss", "lead", "mia", "vic", "sam", "rob")


@pytest.mark.parametrize(
    ("route", "body", "statuses"),
    [
        (f"GET {O}/users", None, "200 200 200 200 200 200"),
        (f"POST {O}/users", {"user_id": "new@example.org", "role": "reader"}, "200 403 403 403 403 403"),
        (f"DELETE {O}/users/MIA", None, "200 403 403 403 403 403"),
        (f"DELETE {O}", None, "400 403 403 403 403 403"),
        (f"GET {O}/projects", None, "200 200 200 200 200 200"),
        (f"POST {O}/projects", {"title": "New"}, "200 403 403 403 403 403"),
        (f"PATCH {V}", {"title": "Sight"}, "200 200 403 403 403 403"),
        (f"PATCH {V}", {"assignments": []}, "200 403 403 403 403 403"),
        (f"GET {V}/users", None, "200 200 200 200 404 404"),
        (f"POST {V}/users", {"user_id": "ROB", "role": "member"}, "200 200 403 403 403 403"),
        (f"DELETE {V}/users/MIA", None, "200 200 403 403 403 403"),
        (f"GET {V}/api_keys", None, "200 200 200 200 404 403"),
        (f"POST {V}/api_keys", {"name": "new"}, "200 200 200 403 404 403"),
        (f"DELETE {V}", None, "200 200 403 403 403 403"),
    ],
)
def test_roles_grant_their_permissions(company: Company, route: str, body: Any, statuses: str) -> None:
    route = route.replace("MIA", company.email("mia"))
    if body and body.get("user_id") == "ROB":
        body = {**body, "user_id": company.email("rob").upper()}
    # From the last to the first, so that what is allowed comes when all others have been refused.
    for by, status in reversed(list(zip(WHO, statuses.split(), strict=True))):
        if status in ("200", "400"):
            break
        assert_error(
            company.ask(route, body, by=by), int(status), {"403": "insufficient_permissions"}.get(status, "not_found")
        )
    allowed = [by for by, status in zip(WHO, statuses.split(), strict=True) if status == "200"]
    for by in allowed if route.startswith("GET") else allowed[-1:]:
        assert company.ask(route, body, by=by).status == 200
    if statuses.startswith("400"):
        assert_error(company.ask(route, body), 400, "in_use")


def test_a_member_sees_their_projects(company: Company) -> None:
    assert titles(company.ask(f"GET {O}/projects")) == ["Vision", "Speech"]
    assert titles(company.ask(f"GET {O}/projects", by="mia")) == ["Vision"]
    assert titles(company.ask(f"GET {O}/projects", by="sam")) == ["Speech"]
    assert titles(company.ask(f"GET {O}/projects", by="rob")) == []
    found = company.ask(f"GET {O}/projects", query="include_summary=1").json["projects"][0]
    assert found["summary"] == {"user_count": 4}
    assert (found["organization_id"], found["is_default"], found["assignments"]) == (company.id, False, [])


def test_a_sibling_project_is_not_found(company: Company) -> None:
    for route, body in (
        (f"GET {S}/users", None),
        (f"GET {S}/api_keys", None),
        (f"POST {S}/api_keys", {"name": "x"}),
        (f"PATCH {S}", {"title": "x"}),
        (f"DELETE {S}", None),
        (f"POST {S}/users", {"user_id": company.email("mia"), "role": "owner"}),
        (f"DELETE {S}/users/{company.email('sam')}", None),
    ):
        assert_error(company.ask(route, body, by="lead"), 404, "not_found")
        assert_error(company.ask(route.replace("SPEECH", "proj_nobody"), body), 404, "not_found")


def test_users_are_added_and_removed_by_email_case_insensitively(company: Company) -> None:
    address = f"New-{company.number}@Example.org"
    made = company.ask(f"POST {O}/users", {"user_id": address, "role": "ORGANIZATION_ROLE_READER"}).json
    assert (made["user_id"], made["role"]) == (address.lower(), "ORGANIZATION_ROLE_READER")
    assert_error(company.ask(f"POST {O}/users", {"user_id": address, "role": "owner"}), 409, "conflict")
    joined = company.ask(f"POST {V}/users", {"user_id": address, "role": "MEMBER"}).json
    assert (joined["role"], joined["project_id"]) == ("PROJECT_ROLE_MEMBER", company.vision)
    assert_error(company.ask(f"POST {V}/users", {"user_id": address, "role": "viewer"}), 409, "conflict")
    assert "new" in emails(company.ask(f"GET {V}/users"))
    assert company.ask(f"DELETE {V}/users/{made['internal_user_id']}").json == {"removed": {"api_keys": []}}
    assert_error(company.ask(f"DELETE {V}/users/{address}"), 404, "not_found")
    company.ask(f"POST {V}/users", {"user_id": address, "role": "member"})
    gone = company.ask(f"DELETE {O}/users/{address}").json
    assert gone == {"removed": {"projects": [company.vision], "api_keys": [], "limits": [], "budgets": []}}
    assert "new" not in emails(company.ask(f"GET {O}/users"))
    assert_error(company.ask(f"DELETE {O}/users/{address}"), 404, "not_found")


def test_a_removed_members_key_is_rejected(company: Company) -> None:
    assert company.authenticates(company.secrets["mia"])
    gone = company.ask(f"DELETE {O}/users/{company.email('mia')}").json["removed"]
    assert len(gone["api_keys"]) == 1
    assert_error(company.ask("GET /v1/users:getSelf", by="mia"), 401, "invalid_api_key")


def test_the_last_owner_cannot_be_removed(company: Company) -> None:
    assert company.ask(f"DELETE {O}/users/admin@localhost").status == 200
    assert_error(company.ask(f"DELETE {O}/users/{company.email('boss')}"), 400, "last_owner")


def test_roles_accept_upstream_and_own_names(company: Company) -> None:
    for role, shown in (
        ("OWNER", "ORGANIZATION_ROLE_OWNER"),
        ("tenant-system", "ORGANIZATION_ROLE_TENANT_SYSTEM"),
        ("Organization_Role_Reader", "ORGANIZATION_ROLE_READER"),
    ):
        address = f"{shown.lower()}-{company.number}@example.org"
        assert company.ask(f"POST {O}/users", {"user_id": address, "role": role}).json["role"] == shown
    made = company.roles.create(company.founder, "chats", ["api.inference.write"], project_id=company.vision)
    joined = company.ask(f"POST {V}/users", {"user_id": company.email("rob"), "role": made.id})
    assert (joined.json["role_id"], joined.json["role"]) == (made.id, "PROJECT_ROLE_MEMBER")


def test_a_project_is_assigned_and_reassigned(company: Company) -> None:
    spread = {"namespace": "a", "kueue_queue_name": "q", "node_selector": [{"key": "pool", "value": "gpu"}]}
    made = company.ask(f"POST {O}/projects", {"title": "Placed", "assignments": [spread]}).json
    assert made["assignments"] == [{"cluster_id": "", **spread}]
    assert made["kubernetes_namespace"] == ""
    path = f"{O}/projects/{made['id']}"
    moved = company.ask(f"PATCH {path}", {"assignments": [{"namespace": "b"}]}, query="update_mask=assignments").json
    assert [each["namespace"] for each in moved["assignments"]] == ["b"]
    both = {"title": "Moved", "assignments": [], "update_mask": "title,assignments"}
    moved = company.ask(f"PATCH {path}", both).json
    assert (moved["title"], moved["assignments"]) == ("Moved", [])
    assert_error(company.ask(f"PATCH {path}", {"title": "Vision"}), 409, "conflict")
    assert_error(company.ask(f"PATCH {path}", {}), 400, None)
    plain = company.ask(f"POST {O}/projects", {"title": "Plain", "kubernetes_namespace": "team"}).json
    assert plain["kubernetes_namespace"] == "team"
    both_places = {"title": "Both", "kubernetes_namespace": "a", "assignments": [{"namespace": "b"}]}
    assert_error(company.ask(f"POST {O}/projects", both_places), 400, None)


def test_a_project_is_deleted_with_its_objects_unless_it_has_models(company: Company) -> None:
    model = f"org/in-the-way-{company.number}"
    registry = company.context.registry
    registry.create(NewModel(model, SourceRepository.LOCAL, "/x", project_id=company.vision))
    refused = company.ask(f"DELETE {V}", by="lead")
    assert_error(refused, 400, "in_use")
    assert refused.error["in_the_way"] == {"models": [model]}
    registry.delete(model, project_id=None)
    gone = company.ask(f"DELETE {V}", by="lead").json
    assert (gone["deleted"], len(gone["removed"]["users"]), len(gone["removed"]["api_keys"])) == (True, 4, 4)
    assert not company.authenticates(company.secrets["mia"])
    assert_error(company.ask(f"GET {V}/users", by="admin"), 404, "not_found")


def test_the_default_project_cannot_be_deleted(company: Company, installation: Installation) -> None:
    place = installation.owner
    route = f"DELETE /v1/organizations/{place.organization_id}/projects/{place.project_id}"
    assert_error(company.ask(route, by="admin"), 400, "default_project")


def test_owners_see_every_key_and_members_their_own(company: Company) -> None:
    def names(by: str, path: str = f"{V}/api_keys") -> list[str]:
        return sorted(key["name"] for key in company.ask(f"GET {path}", by=by).json["data"])

    everybody = ["boss's", "lead's", "mia's", "vic's"]
    assert names("boss") == names("lead") == names("admin") == everybody
    assert names("mia") == ["mia's"]
    assert names("boss", f"{S}/api_keys") == ["sam's"]
    [theirs] = [key for key in company.ask(f"GET {V}/api_keys").json["data"] if key["name"] == "vic's"]
    assert_error(company.ask(f"DELETE {V}/api_keys/{theirs['id']}", by="mia"), 404, "not_found")
    assert_error(company.ask(f"DELETE {S}/api_keys/{theirs['id']}"), 404, "not_found")
    assert company.ask(f"DELETE {V}/api_keys/{theirs['id']}", by="lead").json["deleted"]
    assert not company.authenticates(company.secrets["vic"])
    assert_error(company.ask(f"DELETE {V}/api_keys/{theirs['id']}", by="lead"), 404, "not_found")


def test_a_key_is_created_under_its_project(company: Company) -> None:
    made = company.ask(f"POST {V}/api_keys", {"name": "below", "project_id": company.vision}, by="mia").json
    assert (made["project"]["id"], made["user"]["id"]) == (company.vision, company.email("mia"))
    assert (made["organization_role"], made["project_role"]) == ("ORGANIZATION_ROLE_READER", "PROJECT_ROLE_MEMBER")
    assert company.authenticates(made["secret"])
    assert_error(company.ask(f"POST {V}/api_keys", {"name": "below"}, by="mia"), 409, "conflict")
    # An owner of the organization makes keys in projects that they were never added to.
    assert company.ask(f"POST {S}/api_keys", {"name": "boss's there"}).json["project_role"] == "PROJECT_ROLE_OWNER"
