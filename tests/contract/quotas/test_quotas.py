"""The rules of quotas: what is stored, who may share out what, and which rules hold for a project."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.platform.capacity import Claim, Kind, QuotaLimit
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.quotas.events import SETTLEMENT_REQUESTED
from llmariner.quotas.quota import Quota, Subject
from llmariner.quotas.quotas import Quotas
from llmariner.quotas.rules import ProjectRules
from llmariner.quotas.tables import quotas as quotas_table
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from ..killed_process import Killed
from ..team import Team
from .steps import NotedCapacity

GIB = 2**30
AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


@pytest.fixture
def capacity() -> NotedCapacity:
    return NotedCapacity()


@pytest.fixture
def quotas(database: Database, capacity: NotedCapacity) -> Quotas:
    return Quotas(database, lambda: capacity)


def audited(database: Database) -> list[tuple[str, dict[str, Any]]]:
    query = select(audit_log).where(audit_log.c.type.like("quota.%")).order_by(audit_log.c.sequence)
    with database.read() as session:
        return [(row.type, json.loads(row.payload)) for row in session.rows(query)]


def test_a_quota_is_set_resource_by_resource_and_deleted(
    database: Database, owner: KeyOwner, quotas: Quotas, capacity: NotedCapacity
) -> None:
    admin, subject = Team(database, owner).admin, Subject(owner.organization_id, owner.project_id)
    assert quotas.find(subject) is None
    gpus, memory = QuotaLimit(4, 2), QuotaLimit(8 * GIB, None)
    quotas.put(admin, subject, {"gpu": gpus}, operator=True)
    quotas.put(admin, subject, {"memory": memory, "cpu": QuotaLimit(0, 500)}, operator=True)
    found = quotas.put(admin, subject, {"cpu": None}, operator=True)
    assert found.limits == {"gpu": gpus, "memory": memory}
    assert quotas.of_projects([owner.project_id, "proj_x"]) == {owner.project_id: found}
    quotas.remove(admin, subject, operator=True)
    assert [each.projects for each in capacity.applied[-2:]] == [{owner.project_id: found.limits}, {}]
    assert [each.revision for each in capacity.applied] == [1, 2, 3, 4]
    assert quotas.find(subject) is None
    with pytest.raises(NotFound):
        quotas.remove(admin, subject, operator=True)
    entries = audited(database)
    assert [type_ for type_, _ in entries] == ["quota.updated"] * 3 + ["quota.deleted"]
    assert entries[0][1] == {
        "id": owner.project_id,
        "subject": "project",
        "limits": {"gpu": {"nominal": 4, "borrowing_limit": 2}},
    }


def test_what_cannot_take_effect_is_not_stored_and_what_failed_half_way_may_be_sent_again(
    database: Database, owner: KeyOwner, quotas: Quotas, capacity: NotedCapacity
) -> None:
    admin, subject = Team(database, owner).admin, Subject(owner.organization_id, owner.project_id)
    for changes, param in (
        ({}, "gpu"),
        ({"gpu": QuotaLimit(-1)}, "gpu.nominal"),
        ({"gpu": QuotaLimit(1, -1)}, "gpu.borrowing_limit"),
        ({"memory": QuotaLimit(2**70)}, "memory.nominal"),
    ):
        with pytest.raises(InvalidRequest) as raised:
            quotas.put(admin, subject, changes, operator=True)
        assert raised.value.param == param
    capacity.conflict = "another manager owns it"
    with pytest.raises(Conflict):
        quotas.put(admin, subject, {"gpu": QuotaLimit(4)}, operator=True)
    assert quotas.find(subject) is None
    capacity.conflict, capacity.broken = "", "the API server went away"
    for _ in range(2):
        with pytest.raises(Conflict):
            quotas.put(admin, subject, {"gpu": QuotaLimit(4)}, operator=True)
    capacity.broken = ""
    quotas.put(admin, subject, {"gpu": QuotaLimit(4)}, operator=True)
    assert [each.projects for each in capacity.applied] == [{owner.project_id: {"gpu": QuotaLimit(4)}}]
    capacity.broken = "the API server went away"
    with pytest.raises(Conflict):
        quotas.remove(admin, subject, operator=True)
    assert quotas.find(subject) is not None
    capacity.broken = ""
    quotas.remove(admin, subject, operator=True)
    assert (quotas.find(subject), capacity.applied[-1].projects) == (None, {})
    assert [type_ for type_, _ in audited(database)] == ["quota.updated"] * 3 + ["quota.deleted"]


def test_of_two_changes_at_a_time_the_last_one_holds(
    database: Database, owner: KeyOwner, quotas: Quotas, capacity: NotedCapacity
) -> None:
    team = Team(database, owner)
    one, two = Subject(owner.organization_id, owner.project_id), Subject(owner.organization_id, team.project())

    def other() -> None:
        quotas.put(team.admin, one, {"gpu": QuotaLimit(7)}, operator=True)
        quotas.put(team.admin, two, {"gpu": QuotaLimit(1)}, operator=True)

    capacity.meanwhile = other
    quotas.put(team.admin, one, {"gpu": QuotaLimit(2)}, operator=True)
    gpus = [{id_: limits["gpu"].nominal for id_, limits in each.projects.items()} for each in capacity.applied]
    last = {owner.project_id: 7, two.project_id: 1}
    assert gpus == [{owner.project_id: 7}, last, {owner.project_id: 2}, last]
    capacity.meanwhile = other
    quotas.remove(team.admin, one, operator=True)
    found = quotas.find(one)
    assert found is not None
    assert (found.limits, capacity.applied[-1].projects[one.id]) == ({"gpu": QuotaLimit(7)}, {"gpu": QuotaLimit(7)})


def test_after_changes_by_many_at_a_time_what_is_stored_is_in_effect(
    database: Database, owner: KeyOwner, capacity: NotedCapacity, run_concurrently: AtOnce
) -> None:
    team = Team(database, owner)
    organization = Subject(owner.organization_id)
    subjects = [
        Subject(owner.organization_id, each) for each in (owner.project_id, team.project(), team.project("Third"))
    ]

    def change(number: int) -> None:
        # Each on its own, as in processes of their own.
        quotas, subject = Quotas(database, lambda: capacity), [organization, *subjects][number % 4]
        for gpus in range(3):
            quotas.put(team.admin, subject, {"gpu": QuotaLimit(number + gpus, None)}, operator=True)
        if number > 5:
            with contextlib.suppress(NotFound):  # another one deleted it
                quotas.remove(team.admin, subject, operator=True)

    assert run_concurrently([partial(change, number) for number in range(8)]) == [None] * 8
    effective = max(capacity.applied, key=lambda each: each.revision)
    quotas = Quotas(database, lambda: capacity)
    assert effective.limits == _limits(quotas.find(organization))
    stored = {each.id: _limits(quotas.find(each)) for each in subjects}
    assert effective.projects == {id_: limits for id_, limits in stored.items() if limits}


def _limits(quota: Quota | None) -> Mapping[str, QuotaLimit]:
    return {} if quota is None else quota.limits


def test_what_the_operator_set_is_changed_by_the_operator_alone(
    database: Database, owner: KeyOwner, quotas: Quotas, capacity: NotedCapacity
) -> None:
    team = Team(database, owner)
    subject = Subject(owner.organization_id, owner.project_id)
    quotas.put(team.admin, subject, {"cpu": QuotaLimit(0, 2000)}, operator=False)
    set_by_owner = quotas.put(team.admin, subject, {"cpu": QuotaLimit(0, 3000)}, operator=False)
    assert not set_by_owner.by_operator
    quotas.put(team.admin, subject, {"gpu": QuotaLimit(0, 2)}, operator=True)
    applied = len(capacity.applied)
    for change in (
        lambda: quotas.put(team.admin, subject, {"gpu": QuotaLimit(0, 3)}, operator=False),
        lambda: quotas.put(team.admin, subject, {"cpu": None}, operator=False),
        lambda: quotas.remove(team.admin, subject, operator=False),
    ):
        with pytest.raises(PermissionDenied, match="who runs the installation") as raised:
            change()
        assert raised.value.code == "quota_set_by_operator"
    assert len(capacity.applied) == applied
    with database.write() as session:  # as a release before this one wrote it
        session.run(update(quotas_table).values(set_by=None))
    with pytest.raises(PermissionDenied):
        quotas.remove(team.admin, subject, operator=False)
    quotas.remove(team.admin, subject, operator=True)
    quotas.put(team.admin, subject, {"cpu": QuotaLimit(0, 3000)}, operator=False)
    quotas.remove(team.admin, subject, operator=False)


def test_quotas_that_mean_no_limit_are_summed_exactly(database: Database, owner: KeyOwner, quotas: Quotas) -> None:
    """Eight of the largest quotas are more than 63 bits."""
    team, most = Team(database, owner), QuotaLimit(2**60)
    for project_id in (None, *(team.project(f"Project {number}") for number in range(8))):
        quotas.put(team.admin, Subject(owner.organization_id, project_id), {"memory": most}, operator=True)
    subject = Subject(owner.organization_id, owner.project_id)
    with pytest.raises(PermissionDenied) as raised:
        quotas.put(team.admin, subject, {"memory": QuotaLimit(1)}, operator=False)
    assert raised.value.code == "organization_quota_exceeded"


def test_owners_of_an_organization_share_out_what_its_quota_has(
    database: Database, owner: KeyOwner, quotas: Quotas, capacity: NotedCapacity
) -> None:
    team = Team(database, owner)
    second = team.project()
    one, two = Subject(owner.organization_id, owner.project_id), Subject(owner.organization_id, second)

    def share(subject: Subject, **limits: QuotaLimit) -> Quota:
        return quotas.put(team.admin, subject, limits, operator=False)

    share(one, gpu=QuotaLimit(0, 3))  # it only holds back
    with pytest.raises(PermissionDenied):
        share(one, gpu=QuotaLimit(1))
    quotas.put(team.admin, Subject(owner.organization_id), {"gpu": QuotaLimit(4)}, operator=True)
    share(one, gpu=QuotaLimit(3))
    share(one, gpu=QuotaLimit(3, None))
    with pytest.raises(PermissionDenied) as raised:
        share(two, gpu=QuotaLimit(2))
    assert raised.value.param == "gpu.nominal"
    share(two, gpu=QuotaLimit(1))
    with database.write() as session:
        session.run(update(projects).where(projects.c.id == second).values(archived_at=1))
    share(one, gpu=QuotaLimit(4))
    # What an archived project had is no longer in effect.
    assert capacity.applied[-1].projects.keys() == {owner.project_id}
    assert capacity.applied[-1].members == {owner.project_id, second}


def test_the_quotas_of_its_project_and_organization_hold_for_a_claim(
    database: Database, owner: KeyOwner, quotas: Quotas
) -> None:
    team = Team(database, owner)
    second, rules = team.project(), ProjectRules(database)
    assert rules.of(None) == rules.of(owner.project_id) == ()
    quotas.put(team.admin, Subject(owner.organization_id, second), {"memory": QuotaLimit(GIB, GIB)}, operator=True)
    quotas.put(team.admin, Subject(owner.organization_id), {"memory": QuotaLimit(3 * GIB)}, operator=True)
    deadline = time.monotonic() + 30
    while len(rules.of(second)) < 2:  # within about a second
        assert time.monotonic() < deadline
        time.sleep(0.05)

    def claim(project: str | None, gib: int, *, waits: bool = False) -> Claim:
        return Claim(project, Kind.JOBS, {"memory": gib * GIB}, waits)

    def refusals(project: str, gib: int, *held: Claim) -> list[str]:
        needed = {"memory": gib * GIB}
        return [str(found) for rule in rules.of(project) if (found := rule.excess(held, needed)) is not None]

    assert refusals(second, 2, claim(second, 9, waits=True), claim(None, 9)) == []
    assert refusals(second, 1, claim(second, 2)) == [
        "It waits for quota: its project uses 2048 MiB of memory of 2048 MiB of memory, and this needs 1024 MiB of memory."
    ]
    assert refusals(second, 2, claim(owner.project_id, 2)) == [
        "It waits for quota: its organization uses 2048 MiB of memory of 3072 MiB of memory, "
        "and this needs 2048 MiB of memory."
    ]
    assert refusals(second, 3) == ["It needs 3072 MiB of memory, and the quota of its project is 2048 MiB of memory."]
    assert refusals(owner.project_id, 3) == []


def unsettled(quotas: Quotas, database: Database) -> list[str]:
    """The organizations whose quotas the sweep has applied again."""
    quotas.request_settlements()
    with database.write() as session:
        found = [row.subject for row in session.rows(select(events).where(events.c.type == SETTLEMENT_REQUESTED))]
        session.run(events.delete())
    return found


def test_a_change_whose_call_was_killed_is_put_into_effect_by_the_sweep(
    database: Database, owner: KeyOwner, quotas: Quotas, capacity: NotedCapacity
) -> None:
    def kill() -> None:
        raise Killed

    admin, subject = Team(database, owner).admin, Subject(owner.organization_id, owner.project_id)
    capacity.meanwhile = kill
    with pytest.raises(Killed):
        quotas.put(admin, subject, {"gpu": QuotaLimit(3)}, operator=True)
    assert capacity.applied == []
    assert unsettled(quotas, database) == [f"quotas/{owner.organization_id}"]
    quotas.settle(owner.organization_id)
    assert capacity.applied[-1].projects == {owner.project_id: {"gpu": QuotaLimit(3)}}
    assert unsettled(quotas, database) == []


def test_the_quota_of_an_archived_project_is_retired_once_nothing_of_it_runs(
    database: Database, owner: KeyOwner, quotas: Quotas, capacity: NotedCapacity
) -> None:
    admin, subject = Team(database, owner).admin, Subject(owner.organization_id, owner.project_id)
    quotas.put(admin, subject, {"gpu": QuotaLimit(3)}, operator=True)
    assert unsettled(quotas, database) == []
    with database.write() as session:
        session.run(
            update(projects).where(projects.c.id == owner.project_id).values(archived_at=int(session.now()) + 1)
        )
    assert unsettled(quotas, database) == [f"quotas/{owner.organization_id}"]
    capacity.remains = True
    quotas.settle(owner.organization_id)
    assert (capacity.applied[-1].projects, owner.project_id in capacity.applied[-1].members) == ({}, True)
    assert unsettled(quotas, database) == [f"quotas/{owner.organization_id}"], "its workloads run"
    capacity.remains = False
    with database.write() as session:
        session.run(
            update(projects).where(projects.c.id == owner.project_id).values(archived_at=int(session.now()) - 5)
        )
    quotas.settle(owner.organization_id)
    assert unsettled(quotas, database) == []
