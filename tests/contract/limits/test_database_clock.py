"""Decisions by time use the database's clock, which all processes share, not the local one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from sqlalchemy import select

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseReport, LeaseRequest
from llmariner.limits.budgets import Budgets, NewBudget
from llmariner.limits.leases import Leases
from llmariner.limits.quota_state import period_start
from llmariner.limits.rules import Subject
from llmariner.limits.tables import allowances
from llmariner.platform.database import Database, ReadSession
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.principal import Caller
from llmariner.usage.ledger import Ledger
from llmariner.usage.prices import NewPrice, Prices

from ..ledgers import closing_event, event

DAY = 86400
AHEAD = 2 * DAY


@pytest.fixture(autouse=True)
def ahead(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Set this process's clock two days back."""

    def now() -> float:
        return time.time() + AHEAD

    monkeypatch.setattr(ReadSession, "now", lambda _: now())
    return now


def test_periods_start_by_the_database_clock(database: Database, owner: KeyOwner, ahead: Callable[[], float]) -> None:
    leases = Leases(database, {})
    subject = Subject(owner.organization_id, "project", owner.project_id)
    before = period_start("day", ahead())
    budget = Budgets(database).put(None, subject, "day", NewBudget(1000))
    leases.lease(
        LeaseRequest("req_a", time.time(), [LeaseReport(budget.id, NO_AMOUNTS, NO_AMOUNTS, Amounts(money=10))])
    )
    with database.read() as session:
        stored = json.loads(session.value(select(allowances.c.state).where(allowances.c.id == budget.id)))
    shown = leases.quota_states([budget.id])[budget.id].period_start
    assert {stored["period_start"], shown} <= {before, period_start("day", ahead())}


def test_inactive_requests_are_interrupted_by_the_database_clock(ledger: Ledger) -> None:
    now = time.time()
    ledger.record([event("req_1", 0, "admitted", (0, 0, 0), admitted_at=now, at=now)])
    assert ledger.interrupt(unseen_for=3 * DAY) == 0
    assert ledger.interrupt(unseen_for=DAY) == 1


def test_old_requests_are_pruned_by_the_database_clock(ledger: Ledger) -> None:
    now = time.time()
    ledger.record([closing_event("req_1", (1, 1, 0), admitted_at=now, at=now)])
    assert ledger.purge(older_than=3 * DAY) == 0
    assert ledger.purge(older_than=DAY) == 1


def test_prices_start_by_the_database_clock(database: Database, owner: KeyOwner, ahead: Callable[[], float]) -> None:
    actor = Caller(owner.user_id, "admin@localhost", owner.organization_id, None, "owner", None, frozenset())
    made = Prices(database).set(actor, NewPrice("m", 10, 20))
    assert made.valid_from == pytest.approx(ahead(), abs=60)
