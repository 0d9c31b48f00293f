"""The usage and the leases of one limit or budget: pure computation, without a database.

Invariant: the usage in a window (or the money spent in a period) plus all leases never exceed the rule, except for requests
in flight when the rule is lowered, and for an instance that overdraws its own reservation. A lease counts as used until its
gateway instance reports. For an instance whose lease expires without a report, the ledger supplies the usage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseGrant, LeaseReport, Rule
from llmariner.limits.sliding_window import SlidingWindow

__all__ = ["LEASE_SECONDS", "QuotaState", "UsageSource", "period_start"]

LEASE_SECONDS = 30.0
"""Lifetime of a lease without a report of its gateway instance."""

_INSTANCE_RETENTION_SECONDS = 3600.0
_RETRY_SECONDS = 1.0
_DAY = 86400
# Days per instance for which usage by day is kept: no request takes longer.
_RETAINED_DAYS = 3
_WINDOW_SECONDS = {
    "requests_per_minute": 60,
    "requests_per_day": _DAY,
    "tokens_per_minute": 60,
    "tokens_per_day": _DAY,
}
_RESOURCES = ("requests", "tokens")


class UsageSource(Protocol):
    """Usage according to the ledger."""

    def unreported_usage(self, rule: Rule, instance: str, since: float) -> Amounts:
        """Usage of a rule by a gateway instance after `since` (the instance's clock)."""

    def spent_since(self, rule: Rule, since: float) -> int:
        """Nano-dollars of all requests that a rule counts, admitted since `since`."""


@dataclass
class _InstanceState:
    """One gateway instance: its total usage, its lease, the time of its last report (its clock), and the lease's expiry.

    `days`: money used of a budget, by the day (since 1970, UTC) on which requests were admitted.
    """

    used: Amounts = NO_AMOUNTS
    leased: Amounts = NO_AMOUNTS
    reported_at: float = 0.0
    expires_at: float = 0.0
    days: dict[int, int] = field(default_factory=dict)


@dataclass
class QuotaState:
    """The state of one rule.

    `spent`: nano-dollars of the requests admitted in the current period. `alerted`: the threshold of the last alert in
    this period; None: there was none.
    """

    rule: Rule
    windows: dict[str, SlidingWindow] = field(default_factory=dict)
    instances: dict[str, _InstanceState] = field(default_factory=dict)
    period_start: float = 0.0
    spent: int = 0
    alerted: int | None = None

    @classmethod
    def load(cls, rule: Rule, state: str) -> QuotaState:
        """Parse the form that `dump` returns."""
        stored: dict[str, Any] = json.loads(state)
        rows, days = stored.get("windows", {}), stored.get("days", {})
        return cls(
            rule,
            {
                name: SlidingWindow(seconds, rows.get(name, []))
                for name, seconds in _WINDOW_SECONDS.items()
                if name in rule.thresholds
            },
            {
                name: _InstanceState(
                    Amounts(*used), Amounts(*leased), reported_at, expires_at, dict(days.get(name, ()))
                )
                for name, (used, leased, reported_at, expires_at) in stored.get("replicas", {}).items()
            },
            stored.get("period_start", -1.0),
            stored.get("spent", 0),
            _load_alerted(stored.get("alerted"), rule),
        )

    def dump(self) -> str:
        """The JSON that is stored in `allowances.state`."""
        value: dict[str, Any] = {
            "windows": {name: window.buckets for name, window in self.windows.items() if window.buckets},
            "replicas": {
                name: [entry.used, entry.leased, round(entry.reported_at, 3), round(entry.expires_at, 3)]
                for name, entry in self.instances.items()
            },
        }
        if self.rule.period is not None:
            value |= {"period_start": self.period_start, "spent": self.spent, "alerted": self.alerted}
            value["days"] = {name: list(entry.days.items()) for name, entry in self.instances.items() if entry.days}
        return json.dumps(value, separators=(",", ":"))

    def advance(self, now: float, usage_source: UsageSource) -> None:
        """Advance to `now`: enter the current period, expire windows, and settle instances whose leases expired."""
        for window in self.windows.values():
            window.expire(now)
        if self.rule.period is not None:
            self._enter_period(period_start(self.rule.period, now), usage_source)
        self._expire_leases(now, usage_source)

    def grant_lease(self, report: LeaseReport, instance: str, at: float, now: float) -> LeaseGrant:
        """Record the usage that an instance reports, and lease it a slice of what is available."""
        entry = self.instances.setdefault(instance, _InstanceState())
        # If the instance was dropped in between, start from the usage that it knows to be recorded.
        entry.used = Amounts(*map(max, entry.used, report.acknowledged))
        self._record_usage(entry, report.used, now, now - report.seconds_since_use, report.daily_spend)
        entry.leased = NO_AMOUNTS
        alive = [other.leased for name, other in self.instances.items() if name != instance and other.expires_at > now]
        others = [leased for leased in alive if any(leased)]
        leased, available, short = [], [], []
        for index, capacity in enumerate(self._capacities(others)):
            if capacity is None:
                leased.append(0)
                available.append(0)
                continue
            reserved, minimum, left = report.reserved[index], report.minimum[index], capacity - report.reserved[index]
            # At most half of what is available if others hold leases too, so that no slice withholds much.
            share = max(minimum, -(-left // 2)) if others else left
            extra = max(0, min(report.requested[index], left, share))
            leased.append(reserved + extra)
            available.append(max(0, left - extra))
            if extra < minimum:
                # Other instances may return quota at any time.
                held_by_others = any(each[index] for each in others)
                short.append(_RETRY_SECONDS if held_by_others else self._seconds_until(index, reserved + minimum, now))
        entry.leased, entry.reported_at = Amounts(*leased), at
        entry.expires_at = now + LEASE_SECONDS
        retry_after = max(short) if short else None
        return LeaseGrant(self.rule.id, entry.leased, Amounts(*available), retry_after, 1 + len(alive), self.spent)

    def has_lease(self, instance: str) -> bool:
        """Whether a gateway instance has a lease that is not empty."""
        entry = self.instances.get(instance)
        return entry is not None and any(entry.leased)

    def alert_due(self) -> bool:
        """Whether the alert threshold is reached and no alert of this threshold was sent in this period."""
        threshold = _alert_threshold(self.rule)
        return threshold is not None and self.alerted != threshold and self.spent >= threshold

    def mark_alerted(self) -> None:
        """Record that the alert was sent; it is due again in the next period, or with another threshold."""
        self.alerted = _alert_threshold(self.rule)

    def leased_money(self) -> int:
        """Nano-dollars in leases, for requests in flight and future ones."""
        return sum(entry.leased.money for entry in self.instances.values())

    def current_usage(self) -> dict[str, int]:
        """Usage by measure as of the last `advance`; for concurrent requests, the leased slots."""
        used = {name: window.used for name, window in self.windows.items()}
        if "concurrent_requests" in self.rule.thresholds:
            used["concurrent_requests"] = sum(entry.leased.slots for entry in self.instances.values())
        return used

    def _enter_period(self, start: float, usage_source: UsageSource) -> None:
        """Enter the period that begins at `start`; what it has spent so far comes from the instances' reports.

        The ledger supplies it only for a new state, since later the ledger holds usage that instances will report again; and
        after the clock was set back into an earlier period, of which nothing else is stored: counting some usage twice is
        better than losing it.
        """
        if start == self.period_start:
            return
        if self.period_start < 0 or start < self.period_start:
            self.spent = usage_source.spent_since(self.rule, start)
        else:
            entries = self.instances.values()
            self.spent = sum(money for entry in entries for day, money in entry.days.items() if day * _DAY >= start)
        self.period_start, self.alerted = start, None

    def _record_usage(
        self,
        entry: _InstanceState,
        used: Amounts,
        now: float,
        requests_at: float,
        days: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Add the usage since the instance's last report. Idempotent: reports hold totals."""
        new = Amounts(*(max(0, total - recorded) for total, recorded in zip(used, entry.used, strict=True)))
        for name, window in self.windows.items():
            of_requests = name.startswith("requests")
            if amount := new.requests if of_requests else new.tokens:
                window.add(requests_at if of_requests else now, amount)
        money = new.money
        if days:  # some of the money may belong to an earlier period
            in_period = (spent - entry.days.get(day, 0) for day, spent in days if day * _DAY >= self.period_start)
            money = min(money, sum(max(0, more) for more in in_period))
        self.spent += money
        entry.used = Amounts(*map(max, used, entry.used))
        merged = {**entry.days, **{day: max(spent, entry.days.get(day, 0)) for day, spent in days}}
        entry.days = {day: merged[day] for day in sorted(merged)[-_RETAINED_DAYS:]}

    def _capacities(self, others: list[Amounts]) -> list[int | None]:
        """Requests, tokens, slots and money that are neither used nor leased to others; None: not limited."""
        thresholds = self.rule.thresholds
        capacities: list[int | None] = []
        for resource in _RESOURCES:
            left = [
                thresholds[name] - window.used for name, window in self.windows.items() if name.startswith(resource)
            ]
            capacities.append(min(left) if left else None)
        capacities.append(thresholds.get("concurrent_requests"))
        capacities.append(None if self.rule.amount is None or not self.rule.hard else self.rule.amount - self.spent)
        return [
            None if capacity is None else capacity - sum(leased[index] for leased in others)
            for index, capacity in enumerate(capacities)
        ]

    def _seconds_until(self, index: int, amount: int, now: float) -> float:
        """Seconds until one instance can lease that much, if no other instance holds a lease."""
        if index < len(_RESOURCES):
            waits = []
            for name, window in self.windows.items():
                if (
                    name.startswith(_RESOURCES[index])
                    and (lacking := amount + window.used - self.rule.thresholds[name]) > 0
                ):
                    waits.append(window.seconds_until_freed(lacking, now))
            return max([_RETRY_SECONDS, *(wait for wait in waits if wait is not None)])
        if self.rule.period is not None and self.spent >= (self.rule.amount or 0):
            return _next_period(self.rule.period, now) - now
        return _RETRY_SECONDS

    def _expire_leases(self, now: float, usage_source: UsageSource) -> None:
        """Release expired leases, and record what the ledger says their instances used."""
        for name, entry in list(self.instances.items()):
            if entry.expires_at > now:
                continue
            if any(entry.leased):
                unreported = usage_source.unreported_usage(self.rule, name, entry.reported_at)
                self._record_usage(entry, Amounts(*map(sum, zip(entry.used, unreported, strict=True))), now, now)
                entry.leased = NO_AMOUNTS
            elif entry.expires_at + _INSTANCE_RETENTION_SECONDS < now:
                del self.instances[name]


def _alert_threshold(rule: Rule) -> int | None:
    """Nano-dollars that trigger the alert; None: no alert."""
    if rule.alert_ratio is None or rule.amount is None:
        return None
    return math.ceil(rule.alert_ratio * rule.amount)


def _load_alerted(stored: Any, rule: Rule) -> int | None:
    """The stored threshold of the last alert; older releases store a boolean."""
    if isinstance(stored, bool):
        return _alert_threshold(rule) if stored else None
    return None if stored is None else int(stored)


def period_start(period: str, now: float) -> float:
    """The start of the current day or month of UTC, in seconds since 1970; 0 for `total`."""
    if period == "day":
        return now // _DAY * _DAY
    if period == "month":
        return datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
    return 0.0


def _next_period(period: str, now: float) -> float:
    if period == "day":
        return now // _DAY * _DAY + _DAY
    if period == "month":
        return period_start("month", period_start("month", now) + 32 * _DAY)
    return now + _DAY
