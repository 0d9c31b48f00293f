"""The audit log through the API: OpenAI's filters, and access for administrators of the organization only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import update

from llmariner.audit.log import append_entry
from llmariner.audit.tables import audit_log
from llmariner.identifiers import new_id
from llmariner.tenancy.principal import Caller

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, assert_error
from .installation import Installation

PATH = "/v1/organization/audit_logs"
Call = Callable[..., HttpResponse]


@pytest.fixture
def call(ask: Ask, admin: dict[str, str]) -> Call:
    """`call(limit=2)`, as the administrator unless `by` says the headers of another."""

    def called(path: str = PATH, *, by: dict[str, str] | None = None, query: str = "", **fields: Any) -> HttpResponse:
        return ask("organization_audit_logs", HttpRequest("GET", path, None, by or admin, query or urlencode(fields)))

    return called


@pytest.fixture
def acts(installation: Installation) -> list[str]:
    """The ids of three acts in the default project, oldest first, and one of another organization."""
    owner, outsider = installation.owner, installation.outsider
    mine = Caller(owner.user_id, "admin@localhost", owner.organization_id, None, "owner", None, frozenset())
    ids = []
    with installation.context.database.write() as session:
        for name in ("project.created", "project.updated", "user.added"):
            payload = {"id": f"{name}-target", "data": {"title": "x"}}
            where = {"organization_id": owner.organization_id, "project_id": owner.project_id}
            ids.append(append_entry(session, mine, name, payload, **where, source="10.0.0.9"))
    with installation.context.database.write() as session:
        append_entry(session, None, "login.failed", {"id": "theirs"}, organization_id=outsider.organization_id)
    return ids


def ids(answer: HttpResponse) -> list[str]:
    assert answer.status == 200, answer.body
    return [entry["id"] for entry in answer.json["data"]]


def test_an_entry_has_openais_format(call: Call, acts: list[str], installation: Installation) -> None:
    found = call(limit=1).json["data"][0]
    assert found["id"] == acts[-1]
    assert (found["type"], found["object"]) == ("user.added", "organization.audit_log")
    assert isinstance(found["effective_at"], int)
    assert found["user.added"] == {"id": "user.added-target", "data": {"title": "x"}}
    assert found["project"] == {"id": installation.owner.project_id, "name": "Default Project"}
    user = {"id": installation.owner.user_id, "email": "admin@localhost"}
    assert found["actor"] == {"type": "session", "session": {"ip_address": "10.0.0.9", "user": user}}


def test_pages_are_consecutive_in_both_directions(call: Call, acts: list[str]) -> None:
    first = call(limit=2).json
    assert [entry["id"] for entry in first["data"]] == [acts[2], acts[1]]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (acts[2], acts[1], True)
    assert ids(call(limit=1, after=acts[1])) == [acts[0]]
    back = call(limit=1, before=acts[0]).json
    assert ([entry["id"] for entry in back["data"]], back["has_more"]) == ([acts[1]], True)
    back = call(limit=2, before=acts[0]).json
    assert ([entry["id"] for entry in back["data"]], back["has_more"]) == ([acts[2], acts[1]], False)
    empty = {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
    assert call(after="audit_log_nobody").json == empty
    assert ids(call(limit=0)) == ids(call())
    gone = new_id("audit_log")
    assert ids(call(limit=2, after=gone)) == [acts[2], acts[1]]
    assert call(before=gone).json == empty


def test_filters_work_with_and_without_brackets(call: Call, acts: list[str]) -> None:
    created = "project.created-target"
    assert ids(call(query=urlencode([("resource_ids[]", created), ("resource_ids[]", "other")])))[0] == acts[0]
    assert ids(call(query=f"resource_ids={created}&event_types[]=project.created"))[0] == acts[0]
    assert ids(call(query=f"resource_ids={created}&event_types[]=user.added")) == []
    assert ids(call(query="actor_emails[]=admin@localhost&limit=1")) == acts[-1:]
    assert ids(call(query="actor_ids[]=user_nobody")) == []
    assert ids(call(query="project_ids[]=proj_nobody")) == []
    assert ids(call(query="effective_at[gt]=1&effective_at[lte]=99999999999&limit=1")) == acts[-1:]
    assert ids(call(query="effective_at[lt]=1")) == []


@pytest.mark.parametrize("value", ["", "x", "nan", "-1", "1e9", "²", "9" * 40])
def test_an_invalid_time_is_rejected(call: Call, value: str) -> None:
    refused = call(query=urlencode({"effective_at[gte]": value}))
    assert_error(refused, 400, None)
    assert refused.error["param"] == "effective_at[gte]"


def test_another_organizations_entries_are_not_found(call: Call, acts: list[str], outsider: dict[str, str]) -> None:
    theirs = call(by=outsider, limit=100)
    assert not set(acts) & set(ids(theirs))
    assert not set(acts) & set(ids(call(by=outsider, after=acts[2])))
    refused = {entry["id"] for entry in theirs.json["data"] if entry["type"] == "login.failed"}
    assert refused
    assert not refused & set(ids(call(limit=100, query="event_types=login.failed")))


def test_integrity_is_reported_and_an_external_head_is_verified(
    call: Call, acts: list[str], installation: Installation
) -> None:
    whole = call(f"{PATH}:verify").json
    assert (whole["whole"], whole["broken_at"], whole["reason"]) == (True, None, None)
    assert whole["entries"] >= 3
    assert call(f"{PATH}:verify", head=whole["head"]).json == whole
    lost = call(f"{PATH}:verify", head="f" * 64).json
    assert (lost["whole"], lost["broken_at"]) == (False, None)
    assert_error(call(f"{PATH}:verify", head="no hash"), 400, "invalid_value")
    change = update(audit_log).where(audit_log.c.id == acts[1])
    with installation.context.database.write() as session:
        session.run(change.values(type="project.deleted"))
    broken = call(f"{PATH}:verify").json
    assert (broken["whole"], broken["broken_at"]) == (False, acts[1])
    with installation.context.database.write() as session:
        session.run(change.values(type="project.updated"))
    assert call(f"{PATH}:verify").json["whole"]


def test_entries_without_an_openai_type_are_returned_on_request(ask: Ask, admin: dict[str, str], call: Call) -> None:
    def do(method: str, path: str, body: Any = None) -> None:
        assert ask("models", HttpRequest(method, f"/v1/models{path}", body, admin)).status == 200

    do("POST", "", {"id": "audited", "source_repository": "LOCAL", "is_project_scoped": True})
    do("PATCH", "/audited", {"config": {}, "update_mask": "config"})
    do("DELETE", "/audited")
    assert ids(call(query="resource_ids[]=audited")) == []
    named = ids(call(query="resource_ids[]=audited&event_types[]=model.created"))
    reported = call(query="resource_ids[]=audited&view=all").json["data"]
    assert named == [reported[2]["id"]]
    assert [entry["type"] for entry in reported] == ["model.deleted", "model.updated", "model.created"]
    assert reported[2]["model.created"]["data"] == {"source_repository": "LOCAL", "model_file_location": "audited"}
