"""The quota state of a budget: periods, alerts, and the spending of expired instances."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseReport, Rule
from llmariner.limits.quota_state import LEASE_SECONDS, QuotaState, period_start
from llmariner.limits.sliding_window import SlidingWindow

from .simulated_instances import EMPTY, FakeUsageSource

AMOUNT = 1000
NOW = datetime(2026, 3, 31, 23, 59, 50, tzinfo=UTC).timestamp()


def budget(period: str = "month", *, hard: bool = True, alert: float | None = 0.5) -> Rule:
    return Rule("budget_1", "org_1", "project", "proj_1", "*", {}, period, AMOUNT, hard, alert)


def new_state(rule: Rule, usage_source: FakeUsageSource, now: float = NOW) -> QuotaState:
    state = QuotaState.load(rule, EMPTY)
    state.advance(now, usage_source)
    return state


def lease(
    state: QuotaState, replica: str, spent: int, wants: int, *, taken: int = 0, least: int = 0, now: float = NOW
) -> int:
    lease_report = LeaseReport(
        "budget_1", Amounts(money=spent), Amounts(money=taken), Amounts(money=wants), Amounts(money=least)
    )
    return state.grant_lease(lease_report, replica, now, now).granted.money


def test_spending_and_reservations_never_exceed_the_amount() -> None:
    state = new_state(budget(), FakeUsageSource())
    assert lease(state, "a", 0, 600) == 600
    # Half of what is available while another instance has a lease, but at least what a request needs, if available.
    assert lease(state, "b", 0, 600) == 200
    assert lease(state, "b", 200, 600, least=150) == 150
    # The 400 that `a` leased and did not use are available again.
    assert lease(state, "a", 200, 0) == 0
    assert lease(state, "b", 200, 1000) == 600
    assert state.spent + state.leased_money() <= AMOUNT


def test_reservations_are_never_revoked() -> None:
    state = new_state(budget(), FakeUsageSource())
    lease(state, "a", 0, 1000)
    smaller = QuotaState.load(budget()._replace(amount=100), state.dump())
    smaller.advance(NOW, FakeUsageSource())
    assert lease(smaller, "a", 0, 500, taken=400) == 400


def test_a_budget_starts_with_the_ledgers_spending() -> None:
    usage_source = FakeUsageSource()
    usage_source.cost = 990
    state = new_state(budget(), usage_source)
    assert state.spent == 990
    assert lease(state, "a", 0, 100) == 10


def test_a_new_period_starts_with_current_reservations() -> None:
    usage_source = FakeUsageSource()
    state = new_state(budget(), usage_source)
    lease(state, "a", 700, 100)
    later = NOW + 15
    state.advance(later, usage_source)
    assert state.spent == 0
    assert state.leased_money() == 100
    assert lease(state, "b", 0, 5000, least=900, now=later) == 900


def test_spending_of_an_expired_instance_is_not_lost_between_periods() -> None:
    usage_source = FakeUsageSource()
    state = new_state(budget("day"), usage_source)
    lease(state, "a", 0, 100)
    usage_source.used["a"] = Amounts(money=70)
    state.advance(NOW + LEASE_SECONDS + 1, usage_source)
    assert state.period_start == period_start("day", NOW + LEASE_SECONDS)
    # The ledger does not split the usage by day: all of it counts as today's.
    assert (state.spent, state.leased_money()) == (70, 0)


@pytest.mark.parametrize(
    ("period", "start"),
    [("day", datetime(2026, 3, 31, tzinfo=UTC)), ("month", datetime(2026, 3, 1, tzinfo=UTC))],
)
def test_periods_are_in_utc(period: str, start: datetime) -> None:
    assert period_start(period, NOW) == start.timestamp()
    assert period_start("total", NOW) == 0


def report(state: QuotaState, replica: str, days: dict[int, int], now: float) -> QuotaState:
    """Report an instance's usage by day of admission; the state passes through its stored form."""
    lease_report = LeaseReport(
        "budget_1", Amounts(money=sum(days.values())), NO_AMOUNTS, NO_AMOUNTS, daily_spend=tuple(days.items())
    )
    state.advance(now, FakeUsageSource())
    state.grant_lease(lease_report, replica, now, now)
    return QuotaState.load(state.rule, state.dump())


YESTERDAY = int(NOW // 86400)


@pytest.mark.parametrize("period", ["day", "month"])
def test_a_period_contains_requests_admitted_in_it(period: str) -> None:
    state = new_state(budget(period), FakeUsageSource())
    state = report(state, "a", {YESTERDAY: 300}, NOW)
    assert state.spent == 300
    usage_source = FakeUsageSource()
    usage_source.cost = 10  # what the ledger has of the first seconds already: processes tell of it later
    state.advance(NOW + 15, usage_source)
    assert state.spent == 0
    # Of the usage that `a` reports now, 40 belong to yesterday.
    state = report(state, "a", {YESTERDAY: 340, YESTERDAY + 1: 10}, NOW + 20)
    assert state.spent == 10
    state = report(state, "b", {YESTERDAY: 7}, NOW + 21)
    state = report(state, "a", {YESTERDAY: 341, YESTERDAY + 1: 25}, NOW + 30)
    assert state.spent == 25


def test_every_day_of_a_month_belongs_to_it() -> None:
    noon = NOW - 5 * 86400
    state = new_state(budget(), FakeUsageSource(), noon)
    reported: dict[int, int] = {}
    for hours in range(8):
        reported[YESTERDAY - 5 + hours // 4] = 10 * (hours % 4 + 1)
        state = report(state, "a", reported, noon + 1800 * hours)
    assert state.spent == 80


def test_a_clock_set_back_does_not_reset_a_budget() -> None:
    state = new_state(budget(), FakeUsageSource(), NOW - 5 * 86400)
    reported: dict[int, int] = {}
    for day in range(YESTERDAY - 5, YESTERDAY + 1):
        reported = {**dict(list(reported.items())[-2:]), day: 100}
        lease_report = LeaseReport(
            "budget_1",
            Amounts(money=100 * (day - YESTERDAY + 6)),
            NO_AMOUNTS,
            NO_AMOUNTS,
            daily_spend=tuple(reported.items()),
        )
        state.advance(min(NOW, day * 86400 + 100), FakeUsageSource())
        state.grant_lease(lease_report, "a", NOW, NOW)
    assert state.spent == 600
    state.advance(NOW + 15, FakeUsageSource())
    assert state.spent == 0
    usage_source = FakeUsageSource()
    usage_source.cost = 600
    state.advance(NOW + 5, usage_source)
    assert state.spent == 600
    state.advance(NOW + 15, FakeUsageSource())
    assert state.spent == 0


def test_an_instance_is_not_counted_again_after_a_long_silence() -> None:
    state = new_state(budget("total"), FakeUsageSource())
    state = report(state, "a", {YESTERDAY: 100}, NOW)
    state.advance(NOW + 2 * 3600, FakeUsageSource())
    assert not state.instances
    for first in (None, LeaseReport("budget_1", NO_AMOUNTS, NO_AMOUNTS, Amounts(money=10))):
        back = QuotaState.load(state.rule, state.dump())
        if first is not None:  # what a new key of that process is granted on its first question
            back.grant_lease(first, "a", NOW, NOW + 7200)
        used, known = Amounts(money=101), Amounts(money=100)
        days = ((YESTERDAY, 100), (YESTERDAY + 1, 1))
        back.grant_lease(
            LeaseReport("budget_1", used, NO_AMOUNTS, NO_AMOUNTS, daily_spend=days, acknowledged=known),
            "a",
            NOW,
            NOW + 7201,
        )
        assert back.spent == 101


def test_an_instance_with_a_fast_clock_is_counted_in_its_period() -> None:
    state = new_state(budget("day"), FakeUsageSource())
    state = report(state, "a", {YESTERDAY: 100, YESTERDAY + 1: 5}, NOW)
    state.advance(NOW + 15, FakeUsageSource())
    assert state.spent == 5


def test_reports_of_the_previous_release_count_when_received() -> None:
    state = new_state(budget("day"), FakeUsageSource())
    lease(state, "a", 100, 0)
    state.advance(NOW + 15, FakeUsageSource())
    lease(state, "a", 130, 0, now=NOW + 15)
    assert state.spent == 30


def test_an_alert_is_emitted_once_per_period() -> None:
    usage_source = FakeUsageSource()
    state = new_state(budget(), usage_source)
    lease(state, "a", 499, 0)
    assert not state.alert_due()
    lease(state, "a", 500, 0)
    assert state.alert_due()
    state.alerted = True
    state = QuotaState.load(budget(), state.dump())
    lease(state, "a", 900, 0)
    assert not state.alert_due()
    state.advance(NOW + 15, usage_source)
    lease(state, "a", 1400, 0, now=NOW + 15)
    assert state.alert_due()


def test_an_alert_only_budget_counts_spending() -> None:
    state = new_state(budget(hard=False), FakeUsageSource())
    lease_report = LeaseReport("budget_1", Amounts(money=5 * AMOUNT), NO_AMOUNTS, NO_AMOUNTS)
    assert state.grant_lease(lease_report, "a", NOW, NOW).granted == NO_AMOUNTS
    assert state.spent == 5 * AMOUNT


def test_an_expired_instance_is_settled_once_and_may_return() -> None:
    usage_source = FakeUsageSource()
    state = new_state(budget("total"), usage_source)
    lease(state, "a", 100, 300)
    later = NOW + LEASE_SECONDS + 1
    usage_source.used["a"] = Amounts(money=50)
    state.advance(later, usage_source)
    assert (state.spent, state.leased_money()) == (150, 0)
    state.advance(later, usage_source)
    assert state.spent == 150
    # The instance was only cut off: its report holds its total usage.
    lease(state, "a", 170, 0, now=later)
    assert state.spent == 170


def test_a_window_counts_a_full_minute() -> None:
    window = SlidingWindow(60, [])
    window.add(100.9, 5)
    window.expire(160.9)
    assert window.used == 5
    assert window.seconds_until_freed(5, 130.0) == 31.0
    assert window.seconds_until_freed(6, 130.0) is None
    window.expire(161.0)
    assert window.used == 0


def test_a_window_sorts_late_usage() -> None:
    window = SlidingWindow(60, [])
    for at in (105.0, 101.0, 103.0, 101.5):
        window.add(at, 1)
    assert window.buckets == [[101, 2], [103, 1], [105, 1]]
    assert window.seconds_until_freed(3, 105.0) == 59.0
