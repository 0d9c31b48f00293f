"""What pays where tokens and devices both have a price: tokens, devices or both, from a time on."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llmariner.errors import InsufficientQuota, InvalidRequest
from llmariner.limits.budgets import Budgets, NewBudget
from llmariner.limits.revisions import Revisions
from llmariner.limits.rules import Subject
from llmariner.platform.database import Database, ReadSession
from llmariner.showback.allocations import Allocations
from llmariner.showback.budgets import check_compute_budgets
from llmariner.showback.charges import charge_budgets
from llmariner.showback.prices import ComputePrices
from llmariner.showback.reports import ComputeQuery, compute_sums
from llmariner.showback.tables import compute_charges
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.principal import Caller
from llmariner.usage.charge_policies import Charge, ChargePolicies, ChargePolicyList
from llmariner.usage.ledger import Ledger
from llmariner.usage.prices import TRAINING_ROUTE, NewPrice, PriceList, Prices

from ..ledgers import event, put_price
from .steps import DAY, NOON, allocation

HOUR = 3600


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [NOON]
    monkeypatch.setattr(ReadSession, "now", lambda session: now[0])
    return now


@pytest.fixture
def policies(database: Database) -> ChargePolicies:
    return ChargePolicies(database)


def choices(database: Database, *times: float) -> list[str]:
    with database.read() as session:
        known = ChargePolicyList.all(session)
    return [known.at(round(at * 1000)).value for at in times]


def test_a_choice_ends_the_previous_one_and_changes_nothing_before(
    database: Database, policies: ChargePolicies, caller: Caller, clock: list[float]
) -> None:
    late = policies.set(caller, Charge.BOTH, valid_from=NOON + 300)
    early = policies.set(caller, Charge.TOKENS, valid_from=NOON + 100)
    again = policies.set(caller, Charge.DEVICES, valid_from=NOON + 100)
    found = choices(database, NOON, NOON + 99.999, NOON + 100, NOON + 299, NOON + 300, NOON + 10**6)
    assert found == ["both", "both", "devices", "devices", "both", "both"]
    assert (again.valid_to, late.valid_to) == (NOON + 300, None)
    assert {each.id for each in policies.page(after=None, limit=9)} == {late.id, early.id, again.id}
    first, *rest = policies.page(after=None, limit=9)
    assert list(policies.page(after=first.id, limit=1)) == rest[:1]
    with pytest.raises(InvalidRequest, match="in the past"):
        policies.set(caller, Charge.BOTH, valid_from=NOON - 100)


def test_tokens_on_devices_of_ones_own_are_free_where_devices_are_charged(
    database: Database, policies: ChargePolicies, caller: Caller, owner: KeyOwner
) -> None:
    prices, project = Prices(database), owner.project_id
    everything = prices.set(caller, NewPrice("*", 1, 1, training=1)).price
    # What is used, and whether it holds devices of a project.
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, False),
        ({"project_id": project}, True),
        ({"base": "b", "project_id": project}, False),
        ({"base": "b", "project_id": project, "base_project_id": project}, True),
        ({"base": "b", "project_id": project, "trains": True}, True),
    ]

    def priced() -> list[bool]:
        with database.read() as session:
            known = PriceList.for_models(session, ["m", "b"], [project])
        return [known.at("m", time.time(), **of) == everything for of, _ in cases]

    assert priced() == [True] * len(cases)
    before = Revisions(database).latest().prices
    policies.set(caller, Charge.DEVICES, valid_from=None)
    assert priced() == [not has_devices for _, has_devices in cases]
    assert prices.current("m", project_id=project) is None
    assert Revisions(database).latest().prices > before, "gateway instances ask for the price again"
    policies.set(caller, Charge.TOKENS, valid_from=None)
    assert priced() == [True] * len(cases)


def test_a_request_costs_what_the_choice_at_its_admission_says(database: Database, owner: KeyOwner) -> None:
    put_price(database, "*", 0, None, (10**6, 10**6, 10**6, 0))
    with database.write() as session:
        from llmariner.usage.tables import charge_policies

        values = {"charge": "devices", "valid_from": 200.0, "valid_to": 300.0, "created_at": 1}
        session.add(charge_policies, id="charge_1", **values)
    ledger = Ledger(database)
    own, shared = {"model_project_id": owner.project_id}, {"model_project_id": None}
    trained = {"model_project_id": owner.project_id, "base_model": "b", "route": TRAINING_ROUTE, "trained_tokens": 5}
    # All arrive in one batch, long after.
    sent = [
        event(f"{name}-{at}", 9, "closed", (1, 1, 0), admitted_at=float(at), outcome="succeeded", status=200, **of)
        for name, of in (("own", own), ("shared", shared), ("trained", trained))
        for at in (100, 200, 299, 300)
    ]
    ledger.record(sent)
    costs = {each["request_id"]: (ledger.request(each["request_id"]) or {})["price_id"] for each in sent}
    free = {id_ for id_, price in costs.items() if price is None}
    assert free == {"own-200", "own-299", "trained-200", "trained-299"}
    assert all(ledger.rebuild(each["request_id"])["price_id"] == costs[each["request_id"]] for each in sent)


def total(database: Database) -> int:
    with database.read() as session:
        return sum(row.cost for row in session.rows(compute_charges.select()))


def sums(database: Database, owner: KeyOwner, *, charged_only: bool) -> dict[str, int]:
    day = int(NOON // DAY * DAY)
    query = ComputeQuery(owner.organization_id, day, day + DAY, DAY, NOON + DAY, ("kind",), charged_only=charged_only)
    return {row["kind"]: row["cost"] for row in compute_sums(database, query)}


def test_devices_of_what_pays_by_its_tokens_are_free_from_then_on(
    database: Database,
    store: Allocations,
    owner: KeyOwner,
    caller: Caller,
    policies: ChargePolicies,
    clock: list[float],
) -> None:
    second = 10**6
    ComputePrices(database).set(caller, "*", gpu_hour=HOUR * second, core_hour=0, gib_hour=0, valid_from=NOON)
    for kind in ("model", "batch_job", "fine_tuning_job", "notebook"):
        store.begin(allocation(owner, kind, NOON, kind=kind, workload_id=f"{kind}-1", amounts={"gpu": 1}))
    clock[0] = NOON + 5
    charge_budgets(database, seconds=10)
    assert total(database) == 4 * 5 * second
    policies.set(caller, Charge.TOKENS, valid_from=NOON + 10)
    policies.set(caller, Charge.DEVICES, valid_from=NOON + 60)
    for at in (30, 70):
        clock[0] = NOON + at
        charge_budgets(database, seconds=10)
    for kind in ("model", "batch_job", "fine_tuning_job", "notebook"):
        store.end(kind, round((NOON + 100) * 1000))
    charge_budgets(database, seconds=10)
    # Models and fine-tuning jobs are charged in 10 + 40 of the 100 seconds.
    expected = dict.fromkeys(("batch_job", "notebook"), 100 * second)
    expected |= dict.fromkeys(("model", "fine_tuning_job"), 50 * second)
    assert total(database) == sum(expected.values())
    assert sums(database, owner, charged_only=True) == expected
    assert set(sums(database, owner, charged_only=False).values()) == {100 * second}, "showback shows all that was held"


def test_what_was_charged_stays_what_is_shown_whatever_begins_by_a_clock_that_is_behind(
    database: Database,
    store: Allocations,
    owner: KeyOwner,
    caller: Caller,
    policies: ChargePolicies,
    clock: list[float],
) -> None:
    second, prices = 10**6, ComputePrices(database)
    prices.set(caller, "*", gpu_hour=HOUR * second, core_hour=0, gib_hour=0, valid_from=None)
    store.begin(allocation(owner, "a", NOON, kind="model", workload_id="m", amounts={"gpu": 1}))
    clock[0] = NOON + 100
    charge_budgets(database, seconds=10)
    prices.set(caller, "*", gpu_hour=9 * HOUR * second, core_hour=0, gib_hour=0, valid_from=NOON + 50)
    clock[0] = NOON + 110
    charge_budgets(database, seconds=10)
    assert policies.set(caller, Charge.TOKENS, valid_from=NOON + 60).valid_from == NOON + 110
    clock[0] = NOON + 120
    store.end("a", round(clock[0] * 1000))
    charge_budgets(database, seconds=10)
    assert total(database) == sums(database, owner, charged_only=True)["model"] == (100 + 9 * 10) * second


def test_a_spent_budget_refuses_no_training_that_costs_no_compute(
    database: Database, owner: KeyOwner, caller: Caller, policies: ChargePolicies
) -> None:
    Budgets(database).put(None, Subject(owner.organization_id, "project", owner.project_id), "day", NewBudget(0))
    ComputePrices(database).set(caller, "*", gpu_hour=1, core_hour=0, gib_hour=0, valid_from=None)
    with database.write() as session, pytest.raises(InsufficientQuota):
        check_compute_budgets(session, owner, by_tokens=True)
    policies.set(caller, Charge.TOKENS, valid_from=None)
    with database.write() as session:
        check_compute_budgets(session, owner, by_tokens=True)
    with database.write() as session, pytest.raises(InsufficientQuota):
        check_compute_budgets(session, owner)
