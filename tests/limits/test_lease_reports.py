"""Lease reports of an instance: usage, reservations and acknowledged usage, and how it returns quota."""

from __future__ import annotations

import pytest

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseGrant, Rule
from llmariner.gateway.limits.applicable_limits import ApplicableLimits, Reservation
from llmariner.gateway.limits.leased_quota import LeasedQuota

LIMIT = Rule(
    "limit_1",
    "org_1",
    "project",
    "proj_1",
    "*",
    {"requests_per_minute": 10, "tokens_per_minute": 1000, "concurrent_requests": 5},
)
BUDGET = Rule("budget_1", "org_1", "project", "proj_1", "*", {}, "month", 1000)


def leased_quota(rule: Rule, amounts: Amounts) -> LeasedQuota:
    allowance = LeasedQuota(rule)
    allowance.apply_grant(LeaseGrant(rule.id, amounts, NO_AMOUNTS, None, 1), None, 0.0)
    return allowance


def reserved(bound: ApplicableLimits, tokens: int, money: int) -> Reservation:
    for limit in bound.limits:
        limit.requests -= 1
        limit.tokens -= tokens
        limit.slots -= 1
    for budget in bound.budgets:
        budget.money -= money
    reservation = Reservation(bound, tokens)
    reservation.money = money
    return reservation


def test_a_withdrawn_reservation_counts_nothing() -> None:
    limit, budget = leased_quota(LIMIT, Amounts(10, 1000, 5)), leased_quota(BUDGET, Amounts(money=1000))
    reservation = reserved(ApplicableLimits([limit, budget]), 300, 70)
    assert (limit.remaining, budget.remaining) == (Amounts(9, 700, 4), Amounts(money=930))
    reservation.cancel()
    reservation.settle(300, 70, 1.0)  # as the handler of its rejection does: it is bound by nothing any more
    assert (limit.remaining, budget.remaining) == (Amounts(10, 1000, 5), Amounts(money=1000))
    assert limit.used == budget.used == limit.reserved == budget.reserved == NO_AMOUNTS


def test_an_instance_reports_its_acknowledged_usage() -> None:
    allowance = leased_quota(BUDGET, Amounts(money=1000))
    reserved(ApplicableLimits([allowance]), 0, 100).settle(0, 40, 1.0)
    reported = allowance.report(1.0)
    assert (reported.used, reported.acknowledged) == (Amounts(money=40), NO_AMOUNTS)
    allowance.apply_grant(LeaseGrant(BUDGET.id, Amounts(money=500), NO_AMOUNTS, None, 1), reported, 2.0)
    reserved(ApplicableLimits([allowance]), 0, 100).settle(0, 10, 1.0)
    again = allowance.report(3.0)
    assert (again.used, again.acknowledged) == (Amounts(money=50), Amounts(money=40))
    assert allowance.report(4.0).acknowledged == Amounts(money=40), "no answer came to that report"


@pytest.mark.parametrize("used", [0, 30])
def test_reservations_are_reported_separately_from_usage_before_a_change(used: int) -> None:
    budget = LeasedQuota(BUDGET._replace(hard=False))
    bound = ApplicableLimits([budget])
    reserved(bound, 0, 100).settle(0, used, 1.0)
    reserved(bound, 0, 100)
    budget.update_rule(BUDGET)
    assert (budget.reserved.money, budget.used.money, budget.remaining.money) == (100, used, -100)
    tokens = LeasedQuota(LIMIT._replace(thresholds={"requests_per_minute": 5}))
    bound = ApplicableLimits([tokens])
    reserved(bound, 100, 0).settle(used, 0)
    reserved(bound, 100, 0)
    tokens.update_rule(LIMIT)
    assert (tokens.reserved.tokens, tokens.used.tokens, tokens.remaining.tokens) == (100, used, -100)


def test_money_is_reported_by_the_day_of_admission() -> None:
    allowance = leased_quota(BUDGET, Amounts(money=1000))
    bound = ApplicableLimits([allowance])
    for admitted_at, money in ((86399.9, 10), (86400.0, 20), (86400.5, 5), (2 * 86400.0, 0)):
        reserved(bound, 0, 50).settle(0, money, admitted_at)
    assert allowance.report(1.0).daily_spend == ((0, 10), (1, 25))
