"""Quotas through the API: what is shown of use, who may set what, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmariner.platform.capacity import Claim, Kind

from .company import Company
from .conftest import Ask
from .http_calls import assert_error
from .installation import Installation
from .planned_capacity import PlannedCapacity

GIB = 2**30


@pytest.fixture(scope="module")
def company(installation: Installation, ask: Ask) -> Company:
    return Company(installation, ask)


@pytest.fixture
def capacity(installation: Installation, company: Company) -> Iterator[PlannedCapacity]:
    """Use of both projects and of a model that all share."""
    capacity = installation.capacity
    capacity.claims = [
        Claim(company.vision, Kind.MODELS, {"gpu": 4, "cpu": 1500, "memory": GIB}),
        Claim(company.vision, Kind.JOBS, {"gpu": 1, "memory": GIB}),
        Claim(company.vision, Kind.JOBS, {"gpu": 2, "memory": GIB}, waits=True),
        Claim(company.speech, Kind.MODELS, {"gpu": 1}),
        Claim(None, Kind.MODELS, {"gpu": 1, "memory": 7}),
    ]
    yield capacity
    capacity.claims, capacity.conflict = [], ""


def test_a_quota_shows_nominal_borrowed_used_and_waiting_by_kind(company: Company, capacity: PlannedCapacity) -> None:
    path = "/v1/organization/quotas/VISION"
    body = {"gpu": {"nominal": 4, "borrowing_limit": 2}, "cpu": {"nominal": 2.5}, "memory": {"nominal": 8 * GIB}}
    made = company.ask(f"POST {path}", body, by="admin").json
    assert (made["object"], made["id"], made["subject"]) == ("organization.quota", company.vision, "project")
    assert made["gpu"] == {"nominal": 4, "borrowing_limit": 2, "used": 5, "borrowed": 1, "waiting": 2}
    assert made["cpu"] == {"nominal": 2.5, "borrowing_limit": 0.0, "used": 1.5, "borrowed": 0.0, "waiting": 0.0}
    jobs = made["kinds"]["jobs"]
    assert (jobs["running"], jobs["waiting"], jobs["gpu"]) == (1, 1, {"used": 1, "waiting": 2})
    assert made["kinds"]["notebooks"]["running"] == 0
    larger = {"cpu": None, "gpu": {"nominal": 1, "borrowing_limit": None}}
    changed = company.ask(f"POST {path}", larger, by="admin").json
    assert (changed["cpu"]["nominal"], changed["gpu"]["borrowing_limit"], changed["gpu"]["borrowed"]) == (None, None, 4)
    assert changed["memory"] == made["memory"]
    assert company.ask(f"GET {path}", by="mia").json == changed
    pool = company.ask("GET /v1/organization/quotas", by="admin").json["pool"]
    assert (pool["gpu"], pool["kinds"]["models"]["running"]) == ({"total": 8, "used": 7, "waiting": 2}, 3)
    listed = company.ask("GET /v1/organization/quotas").json
    assert listed["pool"] is None
    rows = {each["id"]: each for each in listed["data"]}
    assert rows[company.vision] == changed
    assert (rows[company.speech]["gpu"]["used"], rows[company.speech]["created_at"]) == (1, None)
    first = company.ask("GET /v1/organization/quotas", query="limit=1").json
    second = company.ask("GET /v1/organization/quotas", query=f"limit=100&after={first['last_id']}").json
    assert first["has_more"]
    assert [*first["data"], *second["data"]] == listed["data"]
    whole = company.ask("POST /v1/organization/quotas/HERE", {"gpu": {"nominal": 6}}, by="admin").json
    assert (whole["subject"], whole["gpu"]["used"], whole["gpu"]["waiting"]) == ("organization", 6, 2)
    assert company.ask("GET /v1/organization/quotas/HERE").json == whole
    assert company.ask("GET /v1/organization/quotas").json["organization"] == whole
    for id_ in ("HERE", "VISION"):
        assert company.ask(f"DELETE /v1/organization/quotas/{id_}", by="admin").json["deleted"]
        assert_error(company.ask(f"DELETE /v1/organization/quotas/{id_}", by="admin"), 404, "not_found")
    assert company.ask(f"GET {path}").json["gpu"]["nominal"] is None


def test_a_member_sees_the_quota_of_its_project_alone(company: Company, capacity: PlannedCapacity) -> None:
    for name in ("mia", "vic", "lead"):
        listed = company.ask("GET /v1/organization/quotas", by=name).json
        assert ([each["id"] for each in listed["data"]], listed["pool"]) == ([company.vision], None)
        assert listed["organization"] is None
        for other in ("SPEECH", "proj_unknown"):
            assert_error(company.ask(f"GET /v1/organization/quotas/{other}", by=name), 404, "not_found")
        assert company.ask("GET /v1/organization/quotas/HERE", by=name).status == 403
        for method in ("POST", "DELETE"):
            refused = company.ask(f"{method} /v1/organization/quotas/VISION", {"gpu": {"nominal": 1}}, by=name)
            assert refused.status == 403, name


def test_what_can_not_be_a_quota_is_refused(company: Company, capacity: PlannedCapacity) -> None:
    path = "POST /v1/organization/quotas/VISION"
    for body, param in (
        ({}, "gpu"),
        ({"cpu": {"nominal": 0.0004}}, "cpu.nominal"),
        ({"cpu": {"nominal": 1, "borrowing_limit": 1e-300}}, "cpu.borrowing_limit"),
        ({"cpu": {"nominal": 1e300}}, "cpu.nominal"),
        ({"cpu": {"nominal": True}}, "cpu.nominal"),
        ({"memory": {"nominal": "1Gi"}}, "memory.nominal"),
        ({"memory": {"nominal": 1e3}}, "memory.nominal"),
        ({"gpu": {"nominal": [1]}}, "gpu.nominal"),
        ({"gpu": {"nominal": None}}, "gpu.nominal"),
        ({"gpu": 4}, "gpu"),
        ({"notebooks": {"nominal": 1}}, "notebooks"),
        ({"nvidia.com/gpu": {"nominal": 1}}, "nvidia.com/gpu"),
        ({"gpu": {}}, "gpu.nominal"),
        ({"gpu": {"nominal": -1}}, "gpu.nominal"),
        ({"gpu": {"nominal": 0.5}}, "gpu.nominal"),
        ({"gpu": {"nominal": 1, "borrow": 2}}, "gpu.borrow"),
        ({"cpu": {"nominal": "2"}}, "cpu.nominal"),
        ({"memory": {"nominal": 2**63}}, "memory.nominal"),
        ({"memory": {"nominal": 1, "borrowing_limit": 10**400}}, "memory.borrowing_limit"),
    ):
        answer = company.ask(path, body, by="admin")
        assert answer.status == 400, body
        assert answer.json["error"]["param"] == param, answer.json
    capacity.conflict = "'gpu' belongs to the field manager argocd."
    assert company.ask(path, {"gpu": {"nominal": 1}}, by="admin").status == 409
    assert company.ask("GET /v1/organization/quotas/VISION").json["gpu"]["nominal"] is None


def test_an_organizations_owner_holds_back_projects_and_shares_out_what_it_was_given(
    company: Company, capacity: PlannedCapacity
) -> None:
    for method in ("POST", "DELETE"):
        assert company.ask(f"{method} /v1/organization/quotas/HERE", {"gpu": {"nominal": 3}}).status == 403
    path = "POST /v1/organization/quotas/VISION"
    assert company.ask(path, {"gpu": {"nominal": 0, "borrowing_limit": 3}}).status == 200
    assert_error(company.ask(path, {"gpu": {"nominal": 1}}), 403, "organization_quota_exceeded")
    company.ask("POST /v1/organization/quotas/HERE", {"gpu": {"nominal": 2}}, by="admin")
    assert company.ask(path, {"gpu": {"nominal": 2}}).status == 200
    # What the operator has set stays: the error says who can change it.
    company.ask(path, {"memory": {"nominal": 0, "borrowing_limit": GIB}}, by="admin")
    for call, body in ((path, {"gpu": {"nominal": 1}}), ("DELETE /v1/organization/quotas/VISION", None)):
        refused = company.ask(call, body)
        assert_error(refused, 403, "quota_set_by_operator")
        assert "owner of the default organization" in refused.json["error"]["message"]
    assert company.ask("GET /v1/organization/quotas/VISION").json["set_by"] == "operator"
    assert company.ask("DELETE /v1/organization/quotas/VISION", by="admin").status == 200
    assert company.ask(path, {"gpu": {"nominal": 1}}).json["set_by"] == "organization"
    for name in ("outsider", "sam"):
        assert company.ask(path, {"gpu": {"nominal": 1}}, by=name).status in (403, 404)
        assert company.ask("GET /v1/organization/quotas/VISION", by=name).status == 404


def test_the_quota_of_an_archived_project_can_only_be_deleted(company: Company, capacity: PlannedCapacity) -> None:
    project = company.project("Archived")
    path = f"/v1/organization/quotas/{project}"
    company.ask(f"POST {path}", {"gpu": {"nominal": 2}}, by="admin")
    company.ask(f"POST /v1/organization/projects/{project}/archive")
    for by in ("boss", "admin"):
        assert company.ask(f"POST {path}", {"gpu": {"nominal": 2}}, by=by).status == 404
        assert company.ask(f"GET {path}", by=by).status == 404
    assert company.ask(f"DELETE {path}").status == 404
    assert company.ask(f"DELETE {path}", by="admin").status == 200
    assert capacity.applied[company.id].projects.keys().isdisjoint({project})
