"""What a process tells of a rule: what it used, what is reserved, what it was told to be known; and what it gives back."""

from __future__ import annotations

import pytest

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseGrant, Rule
from llmariner.gateway.limits.applicable_limits import Bound, Reservation
from llmariner.gateway.limits.leased_quota import Allowance

LIMIT = Rule(
    "limit_1",
    "org_1",
    "project",
    "proj_1",
    "*",
    {"requests_per_minute": 10, "tokens_per_minute": 1000, "concurrent_requests": 5},
)
BUDGET = Rule("budget_1", "org_1", "project", "proj_1", "*", {}, "month", 1000)


def held(rule: Rule, amounts: Amounts) -> Allowance:
    allowance = Allowance(rule)
    allowance.take(LeaseGrant(rule.id, amounts, NO_AMOUNTS, None, 1), None, 0.0)
    return allowance


def reserved(bound: Bound, tokens: int, money: int) -> Reservation:
    for limit in bound.limits:
        limit.requests -= 1
        limit.tokens -= tokens
        limit.places -= 1
    for budget in bound.budgets:
        budget.money -= money
    reservation = Reservation(bound, tokens)
    reservation.money = money
    return reservation


def test_who_withdraws_has_taken_nothing() -> None:
    limit, budget = held(LIMIT, Amounts(10, 1000, 5)), held(BUDGET, Amounts(money=1000))
    reservation = reserved(Bound([limit, budget]), 300, 70)
    assert (limit.left, budget.left) == (Amounts(9, 700, 4), Amounts(money=930))
    reservation.withdraw()
    reservation.settle(300, 70, 1.0)  # as whoever handles its refusal does: it is bound by nothing any more
    assert (limit.left, budget.left) == (Amounts(10, 1000, 5), Amounts(money=1000))
    assert limit.used == budget.used == limit.taken == budget.taken == NO_AMOUNTS


def test_a_process_tells_what_it_was_told_to_be_known() -> None:
    allowance = held(BUDGET, Amounts(money=1000))
    reserved(Bound([allowance]), 0, 100).settle(0, 40, 1.0)
    told = allowance.hold(1.0)
    assert (told.used, told.acknowledged) == (Amounts(money=40), NO_AMOUNTS)
    allowance.take(LeaseGrant(BUDGET.id, Amounts(money=500), NO_AMOUNTS, None, 1), told, 2.0)
    reserved(Bound([allowance]), 0, 100).settle(0, 10, 1.0)
    again = allowance.hold(3.0)
    assert (again.used, again.acknowledged) == (Amounts(money=50), Amounts(money=40))
    assert allowance.hold(4.0).acknowledged == Amounts(money=40), "no answer came to what was told then"


@pytest.mark.parametrize("used", [0, 30])
def test_what_is_reserved_is_told_apart_from_what_was_used_before_a_change(used: int) -> None:
    budget = Allowance(BUDGET._replace(hard=False))
    bound = Bound([budget])
    reserved(bound, 0, 100).settle(0, used, 1.0)
    reserved(bound, 0, 100)
    budget.change(BUDGET)
    assert (budget.taken.money, budget.used.money, budget.left.money) == (100, used, -100)
    tokens = Allowance(LIMIT._replace(most={"requests_per_minute": 5}))
    bound = Bound([tokens])
    reserved(bound, 100, 0).settle(used, 0)
    reserved(bound, 100, 0)
    tokens.change(LIMIT)
    assert (tokens.taken.tokens, tokens.used.tokens, tokens.left.tokens) == (100, used, -100)


def test_money_is_told_by_the_day_of_admission() -> None:
    allowance = held(BUDGET, Amounts(money=1000))
    bound = Bound([allowance])
    for admitted_at, money in ((86399.9, 10), (86400.0, 20), (86400.5, 5), (2 * 86400.0, 0)):
        reserved(bound, 0, 50).settle(0, money, admitted_at)
    assert allowance.hold(1.0).daily_spend == ((0, 10), (1, 25))
