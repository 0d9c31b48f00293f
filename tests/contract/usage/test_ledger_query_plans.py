"""Queries of the ledger under locks of quota states, and those of each sweep, use an index."""

from __future__ import annotations

import re
import time

import pytest

from llmariner.gateway.control_plane.port import Amounts, Rule
from llmariner.gateway.requests.request_ids import instance_id, new_request_id
from llmariner.limits.ledger_source import LedgerUsageSource
from llmariner.platform.database import Database
from llmariner.usage.ledger import Ledger

from ..ledgers import closing_event, event
from ..query_plans import fill_ledger, plans_of

ROWS = 20_000
SCAN = re.compile(r"Seq Scan on ledger_requests|SCAN ledger_requests(?! USING COVERING INDEX ix_ledger_requests_open)")


@pytest.mark.parametrize("subject", ["key", "user", "project", "organization"])
@pytest.mark.parametrize("period", [None, "month"])
def test_settling_an_expired_instance_reads_only_its_latest_requests(
    subject: str, period: str | None, database: Database
) -> None:
    start = time.time() - ROWS * 50
    fill_ledger(database, ROWS, start=start)
    id_ = {"key": "key_7", "user": "user_1", "project": "proj_1", "organization": "org_1"}[subject]
    rule = Rule("limit_1", "org_1", subject, id_, "*", period=period)

    def settle() -> None:
        with database.read() as session:
            LedgerUsageSource(session).unreported_usage(rule, f"req_{150:020d}", start + 15_050 * 50)

    (plan,) = plans_of(database, settle)
    assert "ix_ledger_requests_process" in plan
    assert not SCAN.search(plan), plan


def test_the_idle_time_of_a_model_is_read_from_the_end_of_its_history(database: Database, ledger: Ledger) -> None:
    start = time.time() - ROWS * 50
    fill_ledger(database, ROWS, start=start)
    plans = plans_of(database, lambda: ledger.idle_since(["model_3", "model_4"]))
    assert len(plans) == 3
    assert not [plan for plan in plans if SCAN.search(plan)], plans
    assert all("ix_ledger_requests_model_seen" in plan for plan in plans[1:]), plans
    assert ledger.idle_since(["model_3", "model_4"]) == int(start) + (ROWS - 6) * 50 + 5


def test_a_model_is_idle_since_its_last_request_ended(ledger: Ledger) -> None:
    assert ledger.idle_since(["m", "n"]) == 0.0
    ledger.record([closing_event("a", (1, 1, 1), at=1500.0), closing_event("b", (1, 1, 1), at=1400.0, model="n")])
    assert [ledger.idle_since(models) for models in (["m"], ["n"], ["m", "n"], ["o"])] == [1500.0, 1400.0, 1500.0, 0.0]
    ledger.record([event("c", 0, "admitted", (0, 0, 0), model="n")])
    assert [ledger.idle_since(models) for models in (["m"], ["n"], ["m", "n"])] == [1500.0, None, None]


def test_an_instance_is_the_prefix_of_its_request_ids(database: Database, ledger: Ledger) -> None:
    other = "req_" + "0" * 20
    ids = [new_request_id(), new_request_id(), f"{other}00000001"]
    ledger.record([closing_event(id_, (10, 5, 0), admitted_at=1000.0, at=1010.0) for id_ in ids])
    rule = Rule("limit_1", "org_1", "key", "key_1", "*")
    with database.read() as session:
        source = LedgerUsageSource(session)
        assert source.unreported_usage(rule, instance_id(), 1000.0) == Amounts(2, 30, 0, 0)
        assert source.unreported_usage(rule, other, 1000.0) == Amounts(1, 15, 0, 0)
        assert source.unreported_usage(rule, instance_id(), 1005.0) == Amounts(0, 30, 0, 0)
        assert source.unreported_usage(rule, instance_id(), 1011.0) == Amounts(0, 0, 0, 0)
