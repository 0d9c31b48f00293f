"""Allocations: exact to the millisecond, once, whatever is repeated, late or killed."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from llmariner.errors import InsufficientQuota
from llmariner.limits.budgets import Budgets, NewBudget
from llmariner.limits.leases import Leases
from llmariner.limits.rules import Subject
from llmariner.models.model import NewModel, SourceRepository
from llmariner.models.registry import ModelRegistry
from llmariner.platform.capacity import Claim, Kind
from llmariner.platform.database import Database, ReadSession
from llmariner.platform.events.tables import events
from llmariner.showback.allocations import Allocations
from llmariner.showback.budgets import check_compute_budgets
from llmariner.showback.charges import charge_budgets
from llmariner.showback.prices import Amounts, ComputePrices
from llmariner.showback.recorder import AllocationRecorder
from llmariner.showback.reports import ComputeQuery, compute_sums
from llmariner.showback.shares import Shares
from llmariner.showback.tables import NOT_ENDED, allocations, compute_charges
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.principal import Caller
from llmariner.usage.ledger import Ledger

from ..ledgers import closing_event
from .steps import DAY, GIB, NOON, allocation


def sums(database: Database, owner: KeyOwner, start: float, end: float, *groups: str, now: float = 0) -> list[object]:
    query = ComputeQuery(owner.organization_id, int(start), int(end), DAY, now or end, groups)
    return [
        tuple(row[name] for name in ("start", *groups, "gpu_ms", "millicore_ms", "mib_ms", "cost", "workloads"))
        for row in compute_sums(database, query)
    ]


def test_an_allocation_over_midnight_counts_in_both_days(
    database: Database, store: Allocations, owner: KeyOwner
) -> None:
    midnight = NOON + DAY / 2
    store.begin(allocation(owner, "a", midnight - 1.5))
    store.end("a", round((midnight + 0.25) * 1000))
    first, second = midnight - DAY, midnight
    assert sums(database, owner, first, second + DAY) == [
        (first, 3000, 1500 * 1500, 3072 * 1500, 0, 1),
        (second, 500, 1500 * 250, 3072 * 250, 0, 1),
    ]


def test_repeated_and_late_calls_change_nothing(database: Database, store: Allocations, owner: KeyOwner) -> None:
    for _ in range(2):
        store.begin(allocation(owner, "a", NOON))
    store.end("a", round((NOON + 5) * 1000))
    store.end("a", round((NOON + 50) * 1000))
    store.begin(allocation(owner, "a", NOON + 1))
    store.end("unknown", 1)
    store.see("", round((NOON + 60) * 1000))
    with database.read() as session:
        rows = session.rows(select(allocations))
        kinds = [row.type for row in session.rows(select(events.c.type).where(events.c.subject == "allocations/a"))]
    assert [(row.started_ms, row.ended_ms, row.gpus) for row in rows] == [
        (round(NOON * 1000), round((NOON + 5) * 1000), 2)
    ]
    assert sorted(kinds) == ["ai.llmariner.allocation.ended.v1", "ai.llmariner.allocation.started.v1"]


def test_an_end_before_the_start_is_the_start(database: Database, store: Allocations, owner: KeyOwner) -> None:
    store.begin(allocation(owner, "a", NOON))
    store.end("a", round((NOON - 5) * 1000))
    assert sums(database, owner, NOON // DAY * DAY, NOON + DAY) == []


def test_what_a_killed_platform_held_ends_when_it_was_last_seen(
    database: Database, store: Allocations, owner: KeyOwner
) -> None:
    for id_, cluster in (("a", ""), ("b", ""), ("c", "other")):
        store.begin(allocation(owner, id_, NOON, cluster_id=cluster))
    store.see("", round((NOON + 9) * 1000))
    store.end_when_last_seen("", ids=["a", "c"])
    with database.read() as session:
        ends = {row.id: row.ended_ms for row in session.rows(select(allocations.c.id, allocations.c.ended_ms))}
    assert ends == {"a": round((NOON + 9) * 1000), "b": NOT_ENDED, "c": NOT_ENDED}


def test_what_was_read_before_a_new_admission_ends_nothing_of_it(
    database: Database, store: Allocations, owner: KeyOwner
) -> None:
    old, new = (allocation(owner, f"w/{at}", NOON + at) for at in (0, 60))
    store.hold(old, "w/")
    store.hold(new, "w/")
    store.hold(old, "w/")  # late
    store.release("", "w/", round((NOON + 30) * 1000))  # late
    with database.read() as session:
        rows = session.rows(select(allocations).order_by(allocations.c.id))
    assert [row.ended_ms for row in rows] == [round((NOON + 60) * 1000), NOT_ENDED]


def test_the_recorder_writes_in_order_and_ends_all_when_it_is_closed(
    database: Database, store: Allocations, owner: KeyOwner
) -> None:
    now = [NOON]
    recorder = AllocationRecorder(store, lambda: now[0])
    claim = Claim(owner.project_id, Kind.JOBS, {"memory": GIB, "cpu": 2000})
    recorder.record("ftjob-1-1", claim)
    now[0] += 2
    recorder.record("ftjob-1-1", None)
    recorder.record("ftjob-1-1", claim)
    recorder.record("m", Claim(None, Kind.MODELS, {"memory": GIB}))
    now[0] += 3
    recorder.record("bj-unknown", None)
    recorder.close()
    with database.read() as session:
        rows = session.rows(select(allocations).order_by(allocations.c.started_ms, allocations.c.kind))
    took = [(row.kind, row.workload_id, row.project_id, row.ended_ms - row.started_ms) for row in rows]
    assert took == [
        ("fine_tuning_job", "ftjob-1", owner.project_id, 2000),
        ("fine_tuning_job", "ftjob-1", owner.project_id, 3000),
        ("model", "m", "", 3000),
    ]


def test_costs_follow_the_prices_of_each_moment(
    database: Database, store: Allocations, owner: KeyOwner, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = ComputePrices(database)
    monkeypatch.setattr(ReadSession, "now", lambda session: NOON)
    prices.set(caller, "*", gpu_hour=10**9, core_hour=0, gib_hour=0, valid_from=NOON)
    prices.set(caller, "a100", gpu_hour=4 * 10**9, core_hour=10**9, gib_hour=10**8, valid_from=NOON + 3600)
    store.begin(allocation(owner, "a", NOON - 3600))
    store.end("a", round((NOON + 2 * 3600) * 1000))
    store.begin(allocation(owner, "b", NOON + 3600, amounts={"cpu": 1000}))
    store.end("b", round((NOON + 2 * 3600) * 1000))
    # An hour without a price, one at the price of all devices, one at its own: GPUs, cores and memory.
    cost = 2 * 10**9 + 2 * 4 * 10**9 + 1_500_000_000 + 3 * 10**8
    day = NOON // DAY * DAY
    (row,) = sums(database, owner, day, day + DAY, now=NOON + 9000)
    assert isinstance(row, tuple)
    assert row[-2] == cost


def test_budgets_are_charged_once_while_it_lasts_and_at_its_end(
    database: Database, store: Allocations, owner: KeyOwner, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [NOON]
    monkeypatch.setattr(ReadSession, "now", lambda session: now[0])
    subject = Subject(owner.organization_id, "project", owner.project_id)
    budget = Budgets(database).put(None, subject, "day", NewBudget(10**12))
    ComputePrices(database).set(caller, "*", gpu_hour=10**9 + 1, core_hour=7, gib_hour=3, valid_from=NOON)
    store.begin(allocation(owner, "a", NOON, workload_id="bj-1"))
    for seconds in (7, 7, 911):
        now[0] = NOON + seconds
        charge_budgets(database, seconds=10)
    store.end("a", round((NOON + 1800.5) * 1000))
    now[0] = NOON + 4000
    assert [charge_budgets(database, seconds=10) for _ in range(2)] == [1, 0]
    day = NOON // DAY * DAY
    (row,) = sums(database, owner, day, day + DAY, now=NOON + 4000)
    expected = Fraction(1_800_500, 3_600_000) * (2 * (10**9 + 1) + Fraction(3, 2) * 7 + 3 * 3)
    assert isinstance(row, tuple)
    assert row[-2] == int(expected)
    with database.read() as session:
        assert [row.cost for row in session.rows(select(compute_charges.c.cost))] == [int(expected)]
    assert Leases(database, {}).quota_states([budget.id])[budget.id].spent == int(expected)


def test_a_spent_budget_refuses_new_jobs_once_compute_costs(
    database: Database, owner: KeyOwner, caller: Caller
) -> None:
    subject = Subject(owner.organization_id, "project", owner.project_id)
    budget = Budgets(database).put(None, subject, "day", NewBudget(0))
    with database.write() as session:
        check_compute_budgets(session, owner)
    prices = ComputePrices(database)
    prices.set(caller, "*", gpu_hour=1, core_hour=0, gib_hour=0, valid_from=time.time() + 1000)
    with database.write() as session:
        check_compute_budgets(session, owner)
    prices.set(caller, "*", gpu_hour=1, core_hour=0, gib_hour=0, valid_from=None)
    with database.write() as session, pytest.raises(InsufficientQuota, match=budget.id):
        check_compute_budgets(session, owner)
    with database.write() as session:
        check_compute_budgets(session, KeyOwner(owner.user_id, "proj_other", owner.organization_id))


def test_a_new_budget_begins_with_what_compute_has_cost(
    database: Database, store: Allocations, owner: KeyOwner, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmariner.gateway.control_plane.port import Rule
    from llmariner.limits.ledger_source import LedgerUsageSource

    monkeypatch.setattr(ReadSession, "now", lambda session: NOON + 3600)
    ComputePrices(database).set(caller, "*", gpu_hour=10**9, core_hour=0, gib_hour=0, valid_from=NOON + 3600)
    store.begin(allocation(owner, "a", NOON + 3600))
    store.end("a", round((NOON + 7200) * 1000))
    charge_budgets(database, seconds=10)
    day = NOON // DAY * DAY
    rule = Rule("budget_1", owner.organization_id, "project", owner.project_id, "*", {}, "day", 100)
    with database.read() as session:
        source = LedgerUsageSource(session)
        spent = [
            source.spent_since(each, since)
            for each, since in (
                (rule, day),
                (rule, day + DAY),
                (rule._replace(model="m"), day),
                (rule._replace(subject="organization", subject_id=owner.organization_id), day),
                (rule._replace(subject="project", subject_id="proj_other"), day),
                (rule._replace(subject="key", subject_id="key_1"), day),
            )
        ]
    assert spent == [2 * 10**9, 0, 0, 2 * 10**9, 0, 0]


def test_a_shared_model_counts_for_those_who_used_it_by_their_tokens(
    database: Database, store: Allocations, owner: KeyOwner, ledger: Ledger
) -> None:
    ModelRegistry(database).create(NewModel(id="m", source_repository=SourceRepository.LOCAL, model_file_location="/m"))
    day = NOON // DAY * DAY
    uses = (("proj_a", 30), ("proj_b", 60), ("proj_b", 10), ("proj_c", 0))
    ledger.record(
        [
            closing_event(
                f"req_{number}",
                (tokens, 0, 0),
                admitted_at=NOON + number,
                at=NOON + number + 1,
                project_id=project,
                organization_id=owner.organization_id if project != "proj_b" else "org_other",
                model="m",
            )
            for number, (project, tokens) in enumerate(uses)
        ]
    )
    store.begin(allocation(owner, "a", NOON, kind="model", workload_id="m", project_id=None))
    store.end("a", round((NOON + 100) * 1000))
    assert sums(database, owner, day, day + DAY, "project_id") == [
        (day, "proj_a", 60_000, 45_000_000, 92_160_000, 0, 1),
    ]
    everything = compute_sums(database, ComputeQuery(None, int(day), int(day) + DAY, DAY, day + DAY, ("project_id",)))
    assert [(row["project_id"], row["gpu_ms"]) for row in everything] == [("proj_a", 60_000), ("proj_b", 140_000)]
    unused = compute_sums(database, ComputeQuery(None, int(day), int(day) + DAY, 3600, day + DAY, ("project_id",)))
    assert sum(row["gpu_ms"] for row in unused) == 200_000


@given(
    tokens=st.lists(st.integers(1, 10**9), min_size=1, max_size=9),
    amounts=st.tuples(*(st.integers(0, 2**50) for _ in range(3))),
)
def test_shares_add_up_to_the_whole(tokens: list[int], amounts: tuple[int, int, int]) -> None:
    from llmariner.showback.workloads import Owner

    shares = Shares(None)  # type: ignore[arg-type]
    shares._span = (0, 3600)
    shares._tokens = {"m": {Owner("org", f"proj_{number}"): each for number, each in enumerate(tokens)}}
    parts = [part for _, part in shares.split("m", 0, 3600, Amounts(*amounts))]
    assert tuple(map(sum, zip(*((p.gpu_ms, p.millicore_ms, p.mib_ms) for p in parts), strict=True))) == amounts
