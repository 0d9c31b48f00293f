"""What is used and what is leased of one limit or budget: the arithmetic, without a database.

Invariant: what is used in a window (or spent in a period) and what all processes hold never exceed the rule, but for what
was under way when the rule was made smaller or a process overdrew its own reservation. A hold is counted as used until its
process says what became of it. One that says nothing until its hold expires is asked for in the ledger.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from llmariner.gateway.control_plane.port import NOTHING, Amounts, Grant, Hold, Rule
from llmariner.limits.sliding_window import SlidingWindow

__all__ = ["LEASE_SECONDS", "QuotaState", "UsageSource", "period_start"]

LEASE_SECONDS = 30.0
"""How long a hold lasts when its process says nothing."""

_INSTANCE_RETENTION_SECONDS = 3600.0
_RETRY_SECONDS = 1.0
_DAY = 86400
# Days of which it is kept what was used: no request lasts longer.
_RETAINED_DAYS = 3
_WINDOW_SECONDS = {
    "requests_per_minute": 60,
    "requests_per_day": _DAY,
    "tokens_per_minute": 60,
    "tokens_per_day": _DAY,
}
_RESOURCES = ("requests", "tokens")


class UsageSource(Protocol):
    """What the ledger knows."""

    def unreported_usage(self, rule: Rule, instance: str, since: float) -> Amounts:
        """What a process used of a rule after `since`, by its own clock."""

    def spent_since(self, rule: Rule, since: float) -> int:
        """Nano-dollars of all that a rule binds, since then."""


@dataclass
class _InstanceState:
    """One process's part: all it ever used, what it holds, when it last spoke (its clock), and until when that holds.

    `days`: of what it used of a budget, the money by the day (since 1970, UTC) on which requests were admitted.
    """

    used: Amounts = NOTHING
    held: Amounts = NOTHING
    reported_at: float = 0.0
    expires_at: float = 0.0
    days: dict[int, int] = field(default_factory=dict)


@dataclass
class QuotaState:
    """The state of one rule. `spent`: in the period, by requests admitted in it, as the ledger has it. `alerted`: the
    money spent that somebody was told of in this period, None: nobody was."""

    rule: Rule
    windows: dict[str, SlidingWindow] = field(default_factory=dict)
    instances: dict[str, _InstanceState] = field(default_factory=dict)
    period_start: float = 0.0
    spent: int = 0
    alerted: int | None = None

    @classmethod
    def load(cls, rule: Rule, state: str) -> QuotaState:
        """From its stored form."""
        stored: dict[str, Any] = json.loads(state)
        rows, days = stored.get("windows", {}), stored.get("days", {})
        return cls(
            rule,
            {
                name: SlidingWindow(seconds, rows.get(name, []))
                for name, seconds in _WINDOW_SECONDS.items()
                if name in rule.most
            },
            {
                name: _InstanceState(Amounts(*used), Amounts(*held), reported_at, expires_at, dict(days.get(name, ())))
                for name, (used, held, reported_at, expires_at) in stored.get("replicas", {}).items()
            },
            stored.get("period_start", -1.0),
            stored.get("spent", 0),
            _load_alerted(stored.get("alerted"), rule),
        )

    def dump(self) -> str:
        """Its stored form."""
        value: dict[str, Any] = {
            "windows": {name: window.buckets for name, window in self.windows.items() if window.buckets},
            "replicas": {
                name: [part.used, part.held, round(part.reported_at, 3), round(part.expires_at, 3)]
                for name, part in self.instances.items()
            },
        }
        if self.rule.period is not None:
            value |= {"period_start": self.period_start, "spent": self.spent, "alerted": self.alerted}
            value["days"] = {name: list(part.days.items()) for name, part in self.instances.items() if part.days}
        return json.dumps(value, separators=(",", ":"))

    def advance(self, now: float, usage_source: UsageSource) -> None:
        """Bring it to this moment: the period, what counts no more, and whoever fell silent."""
        for window in self.windows.values():
            window.expire(now)
        if self.rule.period is not None:
            self._enter_period(period_start(self.rule.period, now), usage_source)
        self._expire_leases(now, usage_source)

    def grant_lease(self, hold: Hold, instance: str, at: float, now: float) -> Grant:
        """Take what a process says it used, and lease it a slice of what is left."""
        part = self.instances.setdefault(instance, _InstanceState())
        # Of a process that was forgotten in between, what it was told to have been counted.
        part.used = Amounts(*map(max, part.used, hold.known))
        self._record_usage(part, hold.used, now, now - hold.age, hold.days)
        part.held = NOTHING
        alive = [other.held for name, other in self.instances.items() if name != instance and other.expires_at > now]
        others = [held for held in alive if any(held)]
        held, free, short = [], [], []
        for index, capacity in enumerate(self._capacities(others)):
            if capacity is None:
                held.append(0)
                free.append(0)
                continue
            taken, least, left = hold.taken[index], hold.least[index], capacity - hold.taken[index]
            # Half of what is left, where others want some too: what one slice can hold back stays small.
            share = max(least, -(-left // 2)) if others else left
            extra = max(0, min(hold.wants[index], left, share))
            held.append(taken + extra)
            free.append(max(0, left - extra))
            if extra < least:
                # What others hold may come back at any time.
                others_hold = any(each[index] for each in others)
                short.append(_RETRY_SECONDS if others_hold else self._seconds_until(index, taken + least, now))
        part.held, part.reported_at = Amounts(*held), at
        part.expires_at = now + LEASE_SECONDS
        again = max(short) if short else None
        return Grant(self.rule.id, part.held, Amounts(*free), again, 1 + len(alive), self.spent)

    def has_lease(self, instance: str) -> bool:
        """Whether a process holds anything of it."""
        part = self.instances.get(instance)
        return part is not None and any(part.held)

    def alert_due(self) -> bool:
        """Whether so much is spent now as somebody wants to hear of, and nobody was told of that in this period."""
        threshold = _alert_threshold(self.rule)
        return threshold is not None and self.alerted != threshold and self.spent >= threshold

    def mark_alerted(self) -> None:
        """Somebody was told; again only in the next period, or of another amount."""
        self.alerted = _alert_threshold(self.rule)

    def leased_money(self) -> int:
        """Nano-dollars that processes hold for requests under way and those to come."""
        return sum(part.held.money for part in self.instances.values())

    def current_usage(self) -> dict[str, int]:
        """What is used of each measure, as of the last `advance`; of concurrent requests, what is held."""
        used = {name: window.used for name, window in self.windows.items()}
        if "concurrent_requests" in self.rule.most:
            used["concurrent_requests"] = sum(part.held.places for part in self.instances.values())
        return used

    def _enter_period(self, start: float, usage_source: UsageSource) -> None:
        """Be in the period that began then. What it has spent at its first moment processes have told, or will tell.

        The ledger is asked only by an state that is new: later, some of what it knows will be told once more. And by one
        whose clock was set back into a period that was over: of that one nothing else is known, and a little too much is
        better than nothing.
        """
        if start == self.period_start:
            return
        if self.period_start < 0 or start < self.period_start:
            self.spent = usage_source.spent_since(self.rule, start)
        else:
            parts = self.instances.values()
            self.spent = sum(money for part in parts for day, money in part.days.items() if day * _DAY >= start)
        self.period_start, self.alerted = start, None

    def _record_usage(
        self,
        part: _InstanceState,
        used: Amounts,
        now: float,
        requests_at: float,
        days: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Add what was used since the process last spoke. Told twice, it is counted once."""
        new = Amounts(*(max(0, told - known) for told, known in zip(used, part.used, strict=True)))
        for name, window in self.windows.items():
            of_requests = name.startswith("requests")
            if amount := new.requests if of_requests else new.tokens:
                window.add(requests_at if of_requests else now, amount)
        money = new.money
        if days:  # some of it may be of a period that is over
            here = (spent - part.days.get(day, 0) for day, spent in days if day * _DAY >= self.period_start)
            money = min(money, sum(max(0, more) for more in here))
        self.spent += money
        part.used = Amounts(*map(max, used, part.used))
        known = {**part.days, **{day: max(spent, part.days.get(day, 0)) for day, spent in days}}
        part.days = {day: known[day] for day in sorted(known)[-_RETAINED_DAYS:]}

    def _capacities(self, others: list[Amounts]) -> list[int | None]:
        """What is neither used nor held by others, of requests, tokens, places and money; None: not limited."""
        most = self.rule.most
        capacities: list[int | None] = []
        for resource in _RESOURCES:
            left = [most[name] - window.used for name, window in self.windows.items() if name.startswith(resource)]
            capacities.append(min(left) if left else None)
        capacities.append(most.get("concurrent_requests"))
        capacities.append(None if self.rule.amount is None or not self.rule.hard else self.rule.amount - self.spent)
        return [
            None if capacity is None else capacity - sum(held[index] for held in others)
            for index, capacity in enumerate(capacities)
        ]

    def _seconds_until(self, index: int, amount: int, now: float) -> float:
        """Seconds until one process may hold that much, when nobody else holds any."""
        if index < len(_RESOURCES):
            waits = []
            for name, window in self.windows.items():
                if name.startswith(_RESOURCES[index]) and (lacking := amount + window.used - self.rule.most[name]) > 0:
                    waits.append(window.seconds_until_freed(lacking, now))
            return max([_RETRY_SECONDS, *(wait for wait in waits if wait is not None)])
        if self.rule.period is not None and self.spent >= (self.rule.amount or 0):
            return _next_period(self.rule.period, now) - now
        return _RETRY_SECONDS

    def _expire_leases(self, now: float, usage_source: UsageSource) -> None:
        """Processes whose holds ran out: what they used is in the ledger, the rest is free again."""
        for name, part in list(self.instances.items()):
            if part.expires_at > now:
                continue
            if any(part.held):
                known = usage_source.unreported_usage(self.rule, name, part.reported_at)
                self._record_usage(part, Amounts(*map(sum, zip(part.used, known, strict=True))), now, now)
                part.held = NOTHING
            elif part.expires_at + _INSTANCE_RETENTION_SECONDS < now:
                del self.instances[name]


def _alert_threshold(rule: Rule) -> int | None:
    """How much must be spent for somebody to be told."""
    if rule.alert_ratio is None or rule.amount is None:
        return None
    return math.ceil(rule.alert_ratio * rule.amount)


def _load_alerted(stored: Any, rule: Rule) -> int | None:
    """Of what was told; older accounts only say whether."""
    if isinstance(stored, bool):
        return _alert_threshold(rule) if stored else None
    return None if stored is None else int(stored)


def period_start(period: str, now: float) -> float:
    """When the current day or month began, in UTC; 0 for `total`."""
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
