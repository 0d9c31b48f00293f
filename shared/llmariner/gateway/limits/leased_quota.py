"""The lease of one limit or budget in a gateway instance.

The four amounts that requests reserve from are plain numbers, practically infinite where nothing is limited: reserving is a
subtraction. Used requests and reserved amounts are not counted separately; they follow from the granted totals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseGrant, LeaseReport, Rule

__all__ = ["LeasedQuota"]

# A slice should last that many seconds at the current rate, and is renewed when it lasts less than _LOW_SECONDS.
_SLICE_SECONDS = 4.0
_LOW_SECONDS = 1.0
# A slice is at least this fraction of the limit while enough is available, so that quotas with little use are renewed
# rarely.
_PARTS = 64
# When nothing was available: the delay until the next attempt, shorter at rates above _RETRY_REQUESTS in that time.
_RETRY_SECONDS = 3.0
_RETRY_REQUESTS = 160
_SHARED_SECONDS = 2.0
_RENEW_SECONDS = 10.0
_SCARCE_SECONDS = 1.0
_RESOURCES = ("requests", "tokens")
# As many days as the quota state of the control plane retains.
_DAYS = 3
# Unlimited tokens, slots and money: a number, so that reserved amounts remain known when a limit is added.
_UNLIMITED: Final = 1 << 128
# Not `float`: compiled code would convert an integer, and lose digits of a large one.
Number = int | float


class LeasedQuota:
    """The lease of one rule. Times are monotonic seconds; `available`, `instances` and `spent` are those of the last grant.

    `blocked_until`: too little was available; the next request for more makes no sense before. Not thread-safe.
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
        # Integers where something is limited: response headers show them.
        self.requests: Number = math.inf
        self.tokens: Number = _UNLIMITED
        self.slots: Number = _UNLIMITED
        self.money: Number = _UNLIMITED
        self.limited: tuple[bool, ...] = (False, False, False, False)
        self.update_rule(rule)
        self.available = NO_AMOUNTS
        self.instances = 1
        self.spent = 0
        self.synced_at = self.exhausted_since = 0.0
        self._refilled_at = [0.0, 0.0]
        self._remaining_at_sync = self._used_at_sync = self._shortage = self._minimum = self._acknowledged = NO_AMOUNTS
        self._rates: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def update_rule(self, rule: Rule) -> None:
        """Apply a changed rule. Used and leased amounts stay where they are still limited."""
        self.rule = rule
        # What the former rule lacked for the rest of its day, this one may have.
        self.blocked_until = 0.0
        least = [
            _minimum_of(most for name, most in rule.thresholds.items() if name.startswith(resource))
            for resource in _RESOURCES
        ]
        least += [rule.thresholds.get("concurrent_requests"), rule.amount if rule.hard else None]
        limited = tuple(most is not None for most in least)
        # A resource that becomes limited has no lease yet, and requests are counted only while they are limited. Amounts
        # reserved by requests in flight stay owed until these end: returned as available, they would be spent twice.
        if limited[0] is not self.limited[0]:
            self._granted[0], self.requests = self.used.requests, 0 if limited[0] else math.inf
        for index, used in ((1, self.tokens_used), (2, 0), (3, self.money_used)):
            if limited[index] is not self.limited[index]:
                self._add_granted(index, used + (0 if limited[index] else _UNLIMITED) - self._granted[index])
        self.limited = limited
        self._minimum_slice = Amounts(*((most or 0) // _PARTS for most in least))

    def add_spend(self, money: int, day: int) -> None:
        """Add money used by a request that was admitted on that day (since 1970, UTC).

        Budgets account by day of admission.
        """
        self.money_used += money
        self.daily_spend[day] = self.daily_spend.get(day, 0) + money
        if len(self.daily_spend) > _DAYS:
            del self.daily_spend[min(self.daily_spend)]

    @property
    def remaining(self) -> Amounts:
        """What requests can still reserve; 0 where nothing is limited."""
        all_ = (self.requests, self.tokens, self.slots, self.money)
        return Amounts(*(int(amount) if limited else 0 for amount, limited in zip(all_, self.limited, strict=True)))

    @property
    def used(self) -> Amounts:
        """Total usage."""
        return Amounts(self._granted[0] - self.remaining.requests, self.tokens_used, 0, self.money_used)

    @property
    def reserved(self) -> Amounts:
        """Amounts reserved by requests in flight."""
        left, used = self.remaining, self.used
        reserved = (
            g - u - n if limited else 0
            for g, u, n, limited in zip(self._granted, used, left, self.limited, strict=True)
        )
        return Amounts(*reserved)

    @property
    def is_idle(self) -> bool:
        """Whether there is no lease and nothing to report. A budget that is not enforced is never idle."""
        if self.rule.period is not None and not self.rule.hard:
            return False
        return not any(self.remaining) and not any(self.reserved) and self.used == self._used_at_sync

    def record_shortage(self, need: Amounts, now: float) -> None:
        """Record that a request needed more than remained."""
        self._shortage = Amounts(*map(sum, zip(self._shortage, need, strict=True)))
        self._minimum = Amounts(*map(max, self._minimum, need))
        if self.requests < 1 and not self.exhausted_since:
            self.exhausted_since = now

    def needs_sync(self, now: float) -> bool:
        """Whether a report is due: more quota is needed soon, other instances need what is unused here, or it is time."""
        elapsed = now - self.synced_at
        if elapsed >= _RENEW_SECONDS:
            return not self.is_idle and (self.used != self._used_at_sync or any(self.remaining) or any(self.reserved))
        if now < self.blocked_until or elapsed < _LOW_SECONDS / 2:
            return False
        if self._is_unused():
            scarce = (left and not free for left, free in zip(self.remaining, self.available, strict=True))
            return elapsed >= _SCARCE_SECONDS and any(scarce)
        return any(
            left < rate * _LOW_SECONDS
            for left, rate in zip(self.remaining, self._consumption_rates(elapsed), strict=True)
        )

    def report(self, now: float, *, release_all: bool = False, keep_remaining: bool = False) -> LeaseReport:
        """Build the report, and return unused quota at once, whether or not the report arrives.

        `release_all`: return everything. `keep_remaining`: return nothing, for reports that accompany others.
        """
        requested = NO_AMOUNTS if release_all else self._requested(now)
        if keep_remaining:
            requested = Amounts(*map(max, requested, self.remaining))
        for index, (left, want) in enumerate(zip(self.remaining, requested, strict=True)):
            if left > want:
                self._add_granted(index, want - left)
        age = now - self.exhausted_since if self.exhausted_since else 0.0
        days = tuple(self.daily_spend.items())
        report = LeaseReport(
            self.rule.id, self.used, self.reserved, requested, self._minimum, age, days, self._acknowledged
        )
        self._used_at_sync, self._shortage, self._minimum = report.used, NO_AMOUNTS, NO_AMOUNTS
        self.synced_at, self.exhausted_since, self._remaining_at_sync = now, 0.0, self.remaining
        return report

    def apply_grant(self, grant: LeaseGrant, report: LeaseReport | None, now: float) -> None:
        """Apply the grant for a report; `report` None: a first grant, which came with the rules of a caller."""
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
            # A budget is not reported as exhausted while other instances return money.
            self.blocked_until = now + (grant.retry_after or 0.0)
        elif grant.retry_after is not None:
            rate = self._rates[0]
            delay = min(_RETRY_SECONDS, _RETRY_REQUESTS / rate) if rate else _RETRY_SECONDS
            self.blocked_until = now + max(grant.retry_after, delay)
        elif report is not None and _is_scarce(grant, report):
            self.blocked_until = now + _SHARED_SECONDS

    def refill_offline(self, now: float) -> None:
        """Refill requests and tokens at this instance's share of the limits, while the control plane is unavailable.

        No money.
        """
        for index, resource in enumerate(_RESOURCES):
            thresholds = [(name, most) for name, most in self.rule.thresholds.items() if name.startswith(resource)]
            seconds = [
                60 * self.instances / (most if name.endswith("minute") else most / 1440)
                for name, most in thresholds
                if most
            ]
            if not seconds:
                continue
            slowest, elapsed = max(seconds), min(60.0, now - self._refilled_at[index])
            amount = int(elapsed / slowest)
            self._add_granted(index, amount)
            if amount:
                self._refilled_at[index] = now - (elapsed - amount * slowest)

    def _is_unused(self) -> bool:
        return self.used == self._used_at_sync and not any(self.reserved) and not any(self._shortage)

    def _requested(self, now: float) -> Amounts:
        elapsed = max(now - self.synced_at, 0.1)
        if self._is_unused() and elapsed >= _SCARCE_SECONDS:
            return NO_AMOUNTS
        self._rates = tuple(
            max(new, old / 2) for new, old in zip(self._consumption_rates(elapsed), self._rates, strict=True)
        )
        rows = zip(self.limited, self._rates, self._minimum_slice, self._minimum, self.reserved, strict=True)
        requested = [
            max(int(rate * _SLICE_SECONDS), part, least, reserved // 4) if limited else 0
            for limited, rate, part, least, reserved in rows
        ]
        return Amounts(*requested)

    def _consumption_rates(self, elapsed: float) -> tuple[float, ...]:
        """Amounts reserved per second since the last report, shortages included."""
        shortage, left = self._shortage, self.remaining
        return tuple(
            (max(0, t - n) + m) / elapsed for t, n, m in zip(self._remaining_at_sync, left, shortage, strict=True)
        )

    def _add_granted(self, index: int, amount: int) -> None:
        self._granted[index] += amount
        if index == 0:
            self.requests += amount
            if self.requests >= 1:
                self.exhausted_since = 0.0  # later use is newer than any earlier shortage
        elif index == 1:
            self.tokens += amount
        elif index == 2:
            self.slots += amount
        else:
            self.money += amount


def _is_scarce(grant: LeaseGrant, report: LeaseReport) -> bool:
    """Whether so little is available that each instance gets a part of what it requests: renewals then wait a while."""
    rows = zip(grant.granted, grant.available, report.reserved, report.requested, strict=True)
    return any(free and held < reserved + want for held, free, reserved, want in rows)


def _minimum_of(amounts: Iterable[int]) -> int | None:
    return min(amounts, default=None)
