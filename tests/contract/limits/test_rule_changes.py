"""Changed limits and budgets: gateway instances get the subjects, as far as they are recorded."""

from __future__ import annotations

import time

import pytest

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseReport, LeaseRequest
from llmariner.limits import revisions as changes
from llmariner.limits.budgets import Budgets, NewBudget
from llmariner.limits.cascade_delete import delete_rules
from llmariner.limits.leases import Leases
from llmariner.limits.revisions import Revisions
from llmariner.limits.rules import Limits, Subject
from llmariner.platform.database import Database
from llmariner.platform.database.revisions import next_revision
from llmariner.tenancy.keys.store import KeyOwner


@pytest.fixture
def revisions(database: Database, monkeypatch: pytest.MonkeyPatch) -> Revisions:
    monkeypatch.setattr(changes, "_CACHE_SECONDS", -1.0)
    return Revisions(database)


def project(owner: KeyOwner) -> Subject:
    return Subject(owner.organization_id, "project", owner.project_id)


def test_every_change_has_its_subjects(database: Database, revisions: Revisions, owner: KeyOwner) -> None:
    limits, budgets, organization = Limits(database), Budgets(database), owner.organization_id
    whole = Subject(organization, "organization", organization)
    before = revisions.latest().limits
    made = limits.put(None, project(owner), "*", {"requests_per_minute": 5})
    assert revisions.changed_subjects_since(before) == (("project", owner.project_id),)
    after = revisions.latest().limits
    assert revisions.changed_subjects_since(after) == ()
    budget = budgets.put(None, whole, "month", NewBudget(5))
    budgets.update(None, budget, NewBudget(6))
    budgets.add_alert(None, whole, "month", 7, {"type": "email", "recipients": []})
    assert revisions.changed_subjects_since(after) == (("organization", organization),)
    assert revisions.changed_subjects_since(before) == (("organization", organization), ("project", owner.project_id))
    before = revisions.latest().limits
    limits.remove(None, organization, made.id)
    assert revisions.changed_subjects_since(before) == (("project", owner.project_id),)
    before = revisions.latest().limits
    budgets.remove(None, organization, budget.id)
    assert revisions.changed_subjects_since(before) == (("organization", organization),)


def test_a_deletion_has_the_subjects_of_its_rules(database: Database, revisions: Revisions, owner: KeyOwner) -> None:
    subjects = [Subject(owner.organization_id, "key", f"key_{number}") for number in range(3)]
    for subject in subjects:
        Limits(database).put(None, subject, "*", {"requests_per_minute": 5})
    before = revisions.latest().limits
    with database.write() as session:
        delete_rules(session, owner.organization_id, "key", ["key_0", "key_2", "key_9"])
    assert revisions.changed_subjects_since(before) == (("key", "key_0"), ("key", "key_2"))


def test_changes_by_the_previous_release_may_affect_any_subject(
    database: Database, revisions: Revisions, owner: KeyOwner
) -> None:
    before = revisions.latest().limits
    Limits(database).put(None, project(owner), "*", {"requests_per_minute": 5})
    with database.write() as session:
        next_revision(session, "limits")
    assert revisions.changed_subjects_since(before) is None


def test_old_changes_may_affect_any_subject(
    database: Database, revisions: Revisions, owner: KeyOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_RETAINED_REVISIONS", 3)
    before = revisions.latest().limits
    for number in range(5):
        Limits(database).put(None, project(owner), "*", {"requests_per_minute": number})
    assert revisions.changed_subjects_since(before) is None
    assert revisions.changed_subjects_since(before + 3) == (("project", owner.project_id),)
    # Another instance of the control plane may have read a later revision.
    assert revisions.changed_subjects_since(revisions.latest().limits + 1) == ()


def test_windows_and_periods_follow_the_database_clock(
    database: Database, owner: KeyOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite's clock is the process's")
    limit = Limits(database).put(None, project(owner), "*", {"requests_per_minute": 10})
    leases, real = Leases(database, {}), time.time
    for ahead in (0, 7200, -7200):
        monkeypatch.setattr(time, "time", lambda: real() + ahead)  # noqa: B023
        used = LeaseReport(limit.id, Amounts(6), NO_AMOUNTS, NO_AMOUNTS)
        leases.lease(LeaseRequest("req_a", 0.0, [used]))
        grant = leases.lease(
            LeaseRequest("req_b", 0.0, [LeaseReport(limit.id, NO_AMOUNTS, NO_AMOUNTS, Amounts(10))])
        ).grants[0]
        assert grant.granted.requests <= 4
        assert leases.quota_states([limit.id])[limit.id].current_usage() == {"requests_per_minute": 6}
