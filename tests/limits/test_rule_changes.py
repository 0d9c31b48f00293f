"""Rules that change while requests are in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.errors import InsufficientQuota, RateLimited
from llmariner.gateway.control_plane.port import Key, LeaseReport, LeaseRequest, LeaseResponse, Rule
from llmariner.gateway.limits.applicable_limits import ApplicableLimits, Reservation
from llmariner.gateway.limits.leased_quota import LeasedQuota
from llmariner.gateway.limits.limiter import Limiter
from llmariner.limits.budgets import Budgets, NewBudget
from llmariner.limits.leases import Leases
from llmariner.limits.rules import Limits as Rules
from llmariner.limits.rules import Subject
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import DatabaseSettings
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner

AMOUNT, LONGEST, COST = 1000, 500, 10


class RecordingControlPlane:
    """The control plane as far as limits go."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases

    async def lease(self, ask: LeaseRequest) -> LeaseResponse:
        return self.leases.lease(ask)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(DatabaseSettings(f"sqlite:///{tmp_path}/limits.db"))
    upgrade(made)
    yield made
    made.close()


@pytest.fixture
def owner(database: Database) -> Key:
    """A key of the installation's first organization."""
    found = ensure_first_owner(database)
    return Key("key_0", found.project_id, found.organization_id, found.user_id, frozenset(), None, unlimited=True)


def new_limiter(database: Database) -> Limiter:
    return Limiter(RecordingControlPlane(Leases(database, {})))  # type: ignore[arg-type]


async def refresh(limits: Limiter, key: Key, revision: int) -> None:
    """The process hears that the rules of a key's organization changed, and of what they are now."""
    limits.invalidate((), revision, [("organization", key.organization_id)])
    await asyncio.sleep(0.05)


async def spend_until_exhausted(limits: Limiter, key: Key, cost: int) -> int:
    """Nano-dollars that requests which each cost all they reserve can spend before the budget refuses one."""
    total = 0
    while total < 100 * AMOUNT:
        reserved = await limits.reserve(key, "m", 1, 1)
        try:
            if not limits.try_reserve_money(reserved, cost):
                await limits.reserve_money(reserved, cost)
        except InsufficientQuota:
            reserved.settle(0, 0)
            break
        reserved.settle(2, cost, time.time())
        total += cost
    return total


def test_a_budget_that_becomes_hard_during_requests_is_not_overspent(database: Database, owner: Key) -> None:
    subject = Subject(owner.organization_id, "organization", owner.organization_id)

    async def work() -> int:
        budgets = Budgets(database)
        budgets.put(None, subject, "total", NewBudget(AMOUNT, hard=False))
        limits, running = new_limiter(database), []
        for _ in range(10):
            running.append(await limits.reserve(owner, "m", 1, 1))
            assert limits.try_reserve_money(running[-1], LONGEST)
        budgets.put(None, subject, "total", NewBudget(AMOUNT, hard=True))
        await refresh(limits, owner, 1)
        for each in running:
            each.settle(2, COST, time.time())
        return len(running) * COST + await spend_until_exhausted(limits, owner, 50)

    assert asyncio.run(work()) == AMOUNT


def test_running_requests_count_against_a_new_concurrency_limit(database: Database, owner: Key) -> None:
    caller = replace(owner, unlimited=False)
    subject = Subject(caller.organization_id, "organization", caller.organization_id)

    async def work() -> None:
        rules = Rules(database)
        rules.put(None, subject, "*", {"requests_per_minute": 10_000})
        limits = new_limiter(database)
        running = [await limits.reserve(caller, "m", 1, 1) for _ in range(5)]
        rules.put(None, subject, "*", {"concurrent_requests": 5})
        await refresh(limits, caller, 1)
        with pytest.raises(RateLimited):
            await limits.reserve(caller, "m", 1, 1)
        running.pop().settle(2, 0)
        assert limits.try_reserve(caller, "m", 1, 1) is not None or await limits.reserve(caller, "m", 1, 1)
        with pytest.raises(RateLimited):
            await limits.reserve(caller, "m", 1, 1)

    asyncio.run(work())


def test_a_wider_limit_applies_although_the_former_was_used_up_for_the_day(database: Database, owner: Key) -> None:
    key, rules = replace(owner, unlimited=False), Rules(database)
    subject = Subject(owner.organization_id, "organization", owner.organization_id)

    async def work() -> None:
        rules.put(None, subject, "*", {"requests_per_day": 1})
        limits = new_limiter(database)
        (await limits.reserve(key, "m", 1, 1)).settle(2, 0)
        with pytest.raises(RateLimited):
            await limits.reserve(key, "m", 1, 1)
        rules.put(None, subject, "*", {"requests_per_day": 2})
        await refresh(limits, key, 2)
        (await limits.reserve(key, "m", 1, 1)).settle(2, 0)
        with pytest.raises(RateLimited):
            await limits.reserve(key, "m", 1, 1)

    asyncio.run(work())


def test_reported_limits_after_a_limit_lost_a_measure(database: Database, owner: Key) -> None:
    """Another key of the organization hears of the change first: what binds this one is as it was asked for."""
    caller = replace(owner, unlimited=False)
    subject = Subject(caller.organization_id, "organization", caller.organization_id)

    async def work() -> None:
        rules = Rules(database)
        rules.put(None, subject, "*", {"requests_per_minute": 100, "tokens_per_minute": 1000})
        limits = new_limiter(database)
        bound = (await limits.reserve(caller, "m", 1, 1)).applicable
        rules.put(
            None, subject, "*", {"requests_per_minute": None, "tokens_per_minute": None, "concurrent_requests": 9}
        )
        await limits.reserve(replace(caller, id="key_other"), "m", 1, 1)
        names = [name for name, _ in bound.headers()]
        assert b"x-ratelimit-remaining-requests" not in names
        assert b"x-ratelimit-remaining-tokens" not in names
        # Its answer is longer than the limit was; by now none refuses it.
        assert (await limits.reserve(caller, "m", 1, 5000)).applicable is bound

    asyncio.run(work())


@pytest.mark.parametrize("measure", ["tokens", "slots", "money"])
def test_reservations_from_before_a_change_are_reported_after_it(measure: str) -> None:
    """In any order of changes: the report has what requests in flight have reserved, never less than nothing."""
    limited = {"tokens": {"tokens_per_minute": 10**6}, "slots": {"concurrent_requests": 100}, "money": {}}
    most, period = limited[measure], "total" if measure == "money" else None
    free = Rule("rule_1", "org_1", "key", "key_1", "*", {}, period, AMOUNT, hard=False)
    bound = free._replace(thresholds=most, hard=True)
    slice_ = LeasedQuota(free)
    caller = ApplicableLimits([slice_])
    running: list[Reservation] = []

    def begin() -> None:
        reserved = Reservation(caller, 7)
        for limit in caller.limits:
            limit.tokens -= 7
            limit.slots -= 1
        for budget in caller.budgets:
            budget.money -= 7
        reserved.money = 7
        running.append(reserved)

    def reported() -> LeaseReport:
        return slice_.report(time.monotonic())

    each = 1 if measure == "slots" else 7
    begin()
    slice_.update_rule(bound)
    assert getattr(reported().reserved, measure) == each
    begin()
    slice_.update_rule(free)
    begin()
    slice_.update_rule(bound)
    assert getattr(reported().reserved, measure) == 3 * each
    for reserved in running:
        reserved.settle(2, 2)
    assert getattr(reported().reserved, measure) == 0
    assert getattr(slice_, measure) <= 0
