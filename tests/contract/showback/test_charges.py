"""Charges of budgets for compute: each allocation in turn, whatever happens to others."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from llmariner.platform.database import Database, ReadSession
from llmariner.showback.allocations import Allocations
from llmariner.showback.charges import charge_budgets, cost_until
from llmariner.showback.prices import ComputePrice, ComputePriceList, ComputePrices
from llmariner.showback.tables import allocations, compute_charges
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.principal import Caller

from .steps import NOON, allocation

GPU_SECOND = 10**6
_NANO_PER_HOUR = 3600 * GPU_SECOND


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [NOON]
    monkeypatch.setattr(ReadSession, "now", lambda session: now[0])
    return now


def charged(database: Database) -> set[str]:
    with database.read() as session:
        rows = session.rows(select(allocations.c.id).where(allocations.c.charged_ms > allocations.c.started_ms))
    return {row.id for row in rows}


def total(database: Database) -> int:
    with database.read() as session:
        return sum(row.cost for row in session.rows(select(compute_charges.c.cost)))


def test_calls_without_time_for_all_charge_those_of_the_longest_ago_first(
    database: Database, store: Allocations, owner: KeyOwner, clock: list[float]
) -> None:
    for id_ in ("a", "b", "c"):
        store.begin(allocation(owner, id_, NOON))
    found = []
    for _ in range(3):
        clock[0] += 60
        charge_budgets(database, seconds=0)
        found.append(charged(database))
    assert found == [{"a"}, {"a", "b"}, {"a", "b", "c"}]


def test_one_that_can_not_be_charged_holds_up_no_other(
    database: Database, store: Allocations, owner: KeyOwner, caller: Caller, clock: list[float]
) -> None:
    ComputePrices(database).set(caller, "*", gpu_hour=10**15, core_hour=0, gib_hour=0, valid_from=NOON)
    store.begin(allocation(owner, "a", NOON, amounts={"gpu": 2**20}))
    store.begin(allocation(owner, "b", NOON, amounts={"gpu": 1}))
    clock[0] += 36_000
    assert charge_budgets(database, seconds=10) == 1
    assert (charged(database), total(database)) == ({"b"}, 10**16)


def test_what_was_charged_after_it_was_last_seen_is_given_back_at_the_prices_of_that_time(
    database: Database, store: Allocations, owner: KeyOwner, caller: Caller, clock: list[float]
) -> None:
    prices = ComputePrices(database)
    prices.set(caller, "*", gpu_hour=_NANO_PER_HOUR, core_hour=0, gib_hour=0, valid_from=NOON)
    store.begin(allocation(owner, "a", NOON, amounts={"gpu": 1}))
    store.see("", round((NOON + 10) * 1000))
    prices.set(caller, "*", gpu_hour=2 * _NANO_PER_HOUR, core_hour=0, gib_hour=0, valid_from=NOON + 20)
    clock[0] += 30
    charge_budgets(database, seconds=10)
    assert total(database) == 40 * GPU_SECOND
    store.end_when_last_seen("")
    charge_budgets(database, seconds=10)
    assert total(database) == 10 * GPU_SECOND


def test_a_price_for_each_hour_of_a_year_is_no_work() -> None:
    hours, start = 8760, round(NOON)
    listed = [
        ComputePrice(f"price_{hour}", "*", start + 3600 * hour, start + 3600 * (hour + 1), hour, 0, 0, 1)
        for hour in range(hours)
    ]
    held = SimpleNamespace(kind="batch_job", device="a100", gpus=1, millicores=0, memory_mib=0, started_ms=start * 1000)
    began = time.process_time()
    cost = cost_until(ComputePriceList(listed), held, (start + 3600 * hours) * 1000)  # type: ignore[arg-type]
    assert cost == sum(range(hours))
    assert time.process_time() - began < 2
