"""Usage of a rule by an expired gateway instance that only the ledger has."""

from __future__ import annotations

import pytest

from llmariner.gateway.control_plane.port import Amounts, Rule
from llmariner.limits.ledger_source import LedgerUsageSource
from llmariner.platform.database import Database
from llmariner.usage.ledger import Ledger

from ..ledgers import closing_event, event, put_price

PROCESS, OTHER = "req_" + "a" * 20, "req_" + "b" * 20
SPOKE = 200.0


@pytest.mark.parametrize("interrupted", [False, True])
def test_reported_usage_of_an_expired_instance_is_not_counted_again(
    database: Database, ledger: Ledger, interrupted: bool
) -> None:
    put_price(database, "m", 0.0, None, (0, 0, 10**6, 0))
    ledger.record(
        [
            closing_event(f"{PROCESS}1", (5, 5, 0), admitted_at=100.0, at=110.0),
            event(f"{PROCESS}2", 1, "checkpoint", (3, 4, 0), admitted_at=150.0, at=190.0),
            closing_event(f"{PROCESS}3", (1, 1, 0), admitted_at=205.0, at=210.0),
            closing_event(f"{OTHER}4", (50, 50, 0), admitted_at=205.0, at=210.0),
            closing_event(f"{PROCESS}5", (70, 70, 0), admitted_at=205.0, at=210.0, project_id="proj_2"),
        ]
    )
    if interrupted:
        assert ledger.interrupt(unseen_for=60) == 1
    limit = Rule("limit_1", "org_1", "project", "proj_1", "*", {"tokens_per_day": 100})
    budget = Rule("budget_1", "org_1", "project", "proj_1", "*", {}, "total", 100)
    with database.read() as session:
        usage_source = LedgerUsageSource(session)
        assert usage_source.unreported_usage(limit, PROCESS, SPOKE) == Amounts(1, 9)
        assert usage_source.unreported_usage(limit._replace(model="other"), PROCESS, SPOKE) == Amounts()
        assert usage_source.unreported_usage(budget, PROCESS, SPOKE) == Amounts(1, 9, 0, 5)
