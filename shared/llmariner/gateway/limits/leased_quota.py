"""What one process holds of one limit or budget, and what it tells of it.

The four amounts that requests take from are plain numbers, endless where nothing is limited: taking is a subtraction.
Requests used and what is reserved are not counted beside them, they follow from what was given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseGrant, LeaseReport, Rule

__all__ = ["LeasedQuota"]

# How many seconds of what is being used a slice should last, and how much of it is left when more is asked for.
_SLICE_SECONDS = 4.0
_LOW_SECONDS = 1.0
# A slice is at least that part of the limit, as long as there is plenty: then seldom used limits are seldom asked for.
_PARTS = 64
# When there was nothing left: asked again after so many seconds, or sooner after so many requests.
_RETRY_SECONDS = 3.0
_RETRY_REQUESTS = 160
_SHARED_SECONDS = 2.0
_RENEW_SECONDS = 10.0
_SCARCE_SECONDS = 1.0
_RESOURCES = ("requests", "tokens")
# As many as accounts keep.
_DAYS = 3
# Tokens, places and money where nothing is limited: a number, so that what is reserved stays known if they become limited.
_UNLIMITED = 1 << 128


class LeasedQuota:
    """One rule's slice in this process. Times are of the monotonic clock; `free`, `replicas` and `spent` as last granted.

    `closed_until`: there was too little, and asking again is of no use before.
    """

    __slots__ = (
        "_acknowledged",
        "_granted",
        "_minimum",
        "_minimum_slice",
        "_rates",
        "_refilled_at",
        "_remaining_at_sync",
        "_shortage",
        "_used_at_sync",
        "available",
        "blocked_until",
        "daily_spend",
        "exhausted_since",
        "instances",
        "limited",
        "money",
        "money_used",
        "requests",
        "rule",
        "slots",
        "spent",
        "synced_at",
        "tokens",
        "tokens_used",
    )

    def __init__(self, rule: Rule) -> None:
        self._granted = [0, _UNLIMITED, _UNLIMITED, _UNLIMITED]
        self.tokens_used = self.money_used = 0
        self.daily_spend: dict[int, int] = {}
        # Whole numbers where something is limited: they are also shown.
        self.requests: float = math.inf
        self.tokens: float = _UNLIMITED
        self.slots: float = _UNLIMITED
        self.money: float = _UNLIMITED
        self.limited: tuple[bool, ...] = (False, False, False, False)
        self.update_rule(rule)
        self.available = NO_AMOUNTS
        self.instances = 1
        self.spent = 0
        self.synced_at = self.blocked_until = self.exhausted_since = 0.0
        self._refilled_at = [0.0, 0.0]
        self._remaining_at_sync = self._used_at_sync = self._shortage = self._minimum = self._acknowledged = NO_AMOUNTS
        self._rates: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def update_rule(self, rule: Rule) -> None:
        """Follow a rule that was changed; what was used and is held stays as far as it is still limited."""
        self.rule = rule
        least = [
            _minimum_of(most for name, most in rule.thresholds.items() if name.startswith(resource))
            for resource in _RESOURCES
        ]
        least += [rule.thresholds.get("concurrent_requests"), rule.amount if rule.hard else None]
        limited = tuple(most is not None for most in least)
        # Nothing of what becomes limited is held yet, and requests are counted only while they are limited. What requests
        # under way have reserved of the rest is owed until they end: given back as free, it would be spent a second time.
        if limited[0] is not self.limited[0]:
            self._granted[0], self.requests = self.used.requests, 0 if limited[0] else math.inf
        for index, used in ((1, self.tokens_used), (2, 0), (3, self.money_used)):
            if limited[index] is not self.limited[index]:
                self._add_granted(index, used + (0 if limited[index] else _UNLIMITED) - self._granted[index])
        self.limited = limited
        self._minimum_slice = Amounts(*((most or 0) // _PARTS for most in least))

    def add_spend(self, money: int, day: int) -> None:
        """Count money used by a request that was admitted on that day (since 1970, UTC): budgets are by such days."""
        self.money_used += money
        self.daily_spend[day] = self.daily_spend.get(day, 0) + money
        if len(self.daily_spend) > _DAYS:
            del self.daily_spend[min(self.daily_spend)]

    @property
    def remaining(self) -> Amounts:
        """What requests may still take; 0 where nothing is limited."""
        all_ = (self.requests, self.tokens, self.slots, self.money)
        return Amounts(*(int(amount) if limited else 0 for amount, limited in zip(all_, self.limited, strict=True)))

    @property
    def used(self) -> Amounts:
        """All that was used so far."""
        return Amounts(self._granted[0] - self.remaining.requests, self.tokens_used, 0, self.money_used)

    @property
    def reserved(self) -> Amounts:
        """What requests under way have reserved."""
        left, used = self.remaining, self.used
        reserved = (
            g - u - n if limited else 0
            for g, u, n, limited in zip(self._granted, used, left, self.limited, strict=True)
        )
        return Amounts(*reserved)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held and nothing is to be told. A budget that refuses nothing is always counted."""
        if self.rule.period is not None and not self.rule.hard:
            return False
        return not any(self.remaining) and not any(self.reserved) and self.used == self._used_at_sync

    def record_shortage(self, need: Amounts, now: float) -> None:
        """Note that a request found too little of it."""
        self._shortage = Amounts(*map(sum, zip(self._shortage, need, strict=True)))
        self._minimum = Amounts(*map(max, self._minimum, need))
        if self.requests < 1 and not self.exhausted_since:
            self.exhausted_since = now

    def needs_sync(self, now: float) -> bool:
        """Whether its account should be settled: more will be needed soon, or others need what is not, or it is time."""
        passed = now - self.synced_at
        if passed >= _RENEW_SECONDS:
            return not self.is_idle and (self.used != self._used_at_sync or any(self.remaining) or any(self.reserved))
        if now < self.blocked_until or passed < _LOW_SECONDS / 2:
            return False
        if self._is_unused():
            scarce = (left and not free for left, free in zip(self.remaining, self.available, strict=True))
            return passed >= _SCARCE_SECONDS and any(scarce)
        return any(
            left < rate * _LOW_SECONDS
            for left, rate in zip(self.remaining, self._consumption_rates(passed), strict=True)
        )

    def report(self, now: float, *, release_all: bool = False, keep_remaining: bool = False) -> LeaseReport:
        """What to say of it. What is not wanted any more is given up at once, whether or not the word arrives.

        `keeping`: it is told of along with others, and keeps what it has.
        """
        wants = NO_AMOUNTS if release_all else self._requested(now)
        if keep_remaining:
            wants = Amounts(*map(max, wants, self.remaining))
        for index, (left, want) in enumerate(zip(self.remaining, wants, strict=True)):
            if left > want:
                self._add_granted(index, want - left)
        age = now - self.exhausted_since if self.exhausted_since else 0.0
        days = tuple(self.daily_spend.items())
        hold = LeaseReport(self.rule.id, self.used, self.reserved, wants, self._minimum, age, days, self._acknowledged)
        self._used_at_sync, self._shortage, self._minimum = hold.used, NO_AMOUNTS, NO_AMOUNTS
        self.synced_at, self.exhausted_since, self._remaining_at_sync = now, 0.0, self.remaining
        return hold

    def apply_grant(self, grant: LeaseGrant, report: LeaseReport | None, now: float) -> None:
        """Hold what was granted in answer to `told`; None: what a caller's first question was answered with."""
        used = self._used_at_sync if report is None else report.used
        if report is not None:
            self._acknowledged = used
        for index, limited in enumerate(self.limited):
            if limited:
                self._add_granted(index, grant.granted[index] + used[index] - self._granted[index])
        self.available, self.instances, self.spent = grant.available, grant.instances, grant.spent
        self.synced_at, self._remaining_at_sync = now, self.remaining
        self._refilled_at = [now, now]
        self.blocked_until = 0.0
        if self.rule.period is not None:
            # Whoever is told that the money is gone should not be told so while some comes back.
            self.blocked_until = now + (grant.retry_after or 0.0)
        elif grant.retry_after is not None:
            pace = self._rates[0]
            calm = min(_RETRY_SECONDS, _RETRY_REQUESTS / pace) if pace else _RETRY_SECONDS
            self.blocked_until = now + max(grant.retry_after, calm)
        elif report is not None and _is_scarce(grant, report):
            self.blocked_until = now + _SHARED_SECONDS

    def refill_offline(self, now: float) -> None:
        """Nobody can be asked: go on by this process's part of the limits on requests and tokens. Money is not made up."""
        for index, resource in enumerate(_RESOURCES):
            of_it = [(name, most) for name, most in self.rule.thresholds.items() if name.startswith(resource)]
            seconds = [
                60 * self.instances / (most if name.endswith("minute") else most / 1440) for name, most in of_it if most
            ]
            if not seconds:
                continue
            slowest, passed = max(seconds), min(60.0, now - self._refilled_at[index])
            amount = int(passed / slowest)
            self._add_granted(index, amount)
            if amount:
                self._refilled_at[index] = now - (passed - amount * slowest)

    def _is_unused(self) -> bool:
        return self.used == self._used_at_sync and not any(self.reserved) and not any(self._shortage)

    def _requested(self, now: float) -> Amounts:
        passed = max(now - self.synced_at, 0.1)
        if self._is_unused() and passed >= _SCARCE_SECONDS:
            return NO_AMOUNTS
        self._rates = tuple(
            max(new, old / 2) for new, old in zip(self._consumption_rates(passed), self._rates, strict=True)
        )
        rows = zip(self.limited, self._rates, self._minimum_slice, self._minimum, self.reserved, strict=True)
        wants = [
            max(int(rate * _SLICE_SECONDS), part, least, taken // 4) if limited else 0
            for limited, rate, part, least, taken in rows
        ]
        return Amounts(*wants)

    def _consumption_rates(self, passed: float) -> tuple[float, ...]:
        """How fast each was taken since the last settlement, what was missed included."""
        missed, left = self._shortage, self.remaining
        return tuple(
            (max(0, t - n) + m) / passed for t, n, m in zip(self._remaining_at_sync, left, missed, strict=True)
        )

    def _add_granted(self, index: int, amount: int) -> None:
        self._granted[index] += amount
        if index == 0:
            self.requests += amount
            if self.requests >= 1:
                self.exhausted_since = 0.0  # what is used from now on is used after any miss of before
        elif index == 1:
            self.tokens += amount
        elif index == 2:
            self.slots += amount
        else:
            self.money += amount


def _is_scarce(grant: LeaseGrant, told: LeaseReport) -> bool:
    """Whether so little is left that others keep their part of it: not worth a question for each piece."""
    rows = zip(grant.granted, grant.available, told.reserved, told.requested, strict=True)
    return any(free and held < taken + want for held, free, taken, want in rows)


def _minimum_of(amounts: Iterable[int]) -> int | None:
    return min(amounts, default=None)
