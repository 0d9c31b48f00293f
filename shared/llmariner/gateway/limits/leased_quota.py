"""What one process holds of one limit or budget, and what it tells of it.

The four amounts that requests take from are plain numbers, endless where nothing is limited: taking is a subtraction.
Requests used and what is reserved are not counted beside them, they follow from what was given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseGrant, LeaseReport, Rule

__all__ = ["Allowance"]

# How many seconds of what is being used a slice should last, and how much of it is left when more is asked for.
_SLICE_SECONDS = 4.0
_LOW_SECONDS = 1.0
# A slice is at least that part of the limit, as long as there is plenty: then seldom used limits are seldom asked for.
_PARTS = 64
# When there was nothing left: asked again after so many seconds, or sooner after so many requests.
_CALM_SECONDS = 3.0
_CALM_REQUESTS = 160
_SHARED_SECONDS = 2.0
_RENEW_SECONDS = 10.0
_SCARCE_SECONDS = 1.0
_PER = ("requests", "tokens")
# As many as accounts keep.
_DAYS = 3
# Tokens, places and money where nothing is limited: a number, so that what is reserved stays known if they become limited.
_ENDLESS = 1 << 128


class Allowance:
    """One rule's slice in this process. Times are of the monotonic clock; `free`, `replicas` and `spent` as last granted.

    `closed_until`: there was too little, and asking again is of no use before.
    """

    __slots__ = (
        "_given",
        "_known",
        "_least",
        "_left_then",
        "_missed",
        "_part",
        "_rates",
        "_refilled_at",
        "_used_then",
        "closed_until",
        "days",
        "dry_since",
        "free",
        "limited",
        "money",
        "money_used",
        "places",
        "replicas",
        "requests",
        "rule",
        "spent",
        "synced_at",
        "tokens",
        "tokens_used",
    )

    def __init__(self, rule: Rule) -> None:
        self._given = [0, _ENDLESS, _ENDLESS, _ENDLESS]
        self.tokens_used = self.money_used = 0
        self.days: dict[int, int] = {}
        # Whole numbers where something is limited: they are also shown.
        self.requests: float = math.inf
        self.tokens: float = _ENDLESS
        self.places: float = _ENDLESS
        self.money: float = _ENDLESS
        self.limited: tuple[bool, ...] = (False, False, False, False)
        self.change(rule)
        self.free = NO_AMOUNTS
        self.replicas = 1
        self.spent = 0
        self.synced_at = self.closed_until = self.dry_since = 0.0
        self._refilled_at = [0.0, 0.0]
        self._left_then = self._used_then = self._missed = self._least = self._known = NO_AMOUNTS
        self._rates: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)

    def change(self, rule: Rule) -> None:
        """Follow a rule that was changed; what was used and is held stays as far as it is still limited."""
        self.rule = rule
        least = [_least(most for name, most in rule.most.items() if name.startswith(resource)) for resource in _PER]
        least += [rule.most.get("concurrent_requests"), rule.amount if rule.hard else None]
        limited = tuple(most is not None for most in least)
        # Nothing of what becomes limited is held yet, and requests are counted only while they are limited. What requests
        # under way have reserved of the rest is owed until they end: given back as free, it would be spent a second time.
        if limited[0] is not self.limited[0]:
            self._given[0], self.requests = self.used.requests, 0 if limited[0] else math.inf
        for index, used in ((1, self.tokens_used), (2, 0), (3, self.money_used)):
            if limited[index] is not self.limited[index]:
                self._change(index, used + (0 if limited[index] else _ENDLESS) - self._given[index])
        self.limited = limited
        self._part = Amounts(*((most or 0) // _PARTS for most in least))

    def spend(self, money: int, day: int) -> None:
        """Count money used by a request that was admitted on that day (since 1970, UTC): budgets are by such days."""
        self.money_used += money
        self.days[day] = self.days.get(day, 0) + money
        if len(self.days) > _DAYS:
            del self.days[min(self.days)]

    @property
    def left(self) -> Amounts:
        """What requests may still take; 0 where nothing is limited."""
        all_ = (self.requests, self.tokens, self.places, self.money)
        return Amounts(*(int(amount) if limited else 0 for amount, limited in zip(all_, self.limited, strict=True)))

    @property
    def used(self) -> Amounts:
        """All that was used so far."""
        return Amounts(self._given[0] - self.left.requests, self.tokens_used, 0, self.money_used)

    @property
    def taken(self) -> Amounts:
        """What requests under way have reserved."""
        left, used = self.left, self.used
        reserved = (
            g - u - n if limited else 0 for g, u, n, limited in zip(self._given, used, left, self.limited, strict=True)
        )
        return Amounts(*reserved)

    @property
    def sleeping(self) -> bool:
        """Whether nothing is held and nothing is to be told. A budget that refuses nothing is always counted."""
        if self.rule.period is not None and not self.rule.hard:
            return False
        return not any(self.left) and not any(self.taken) and self.used == self._used_then

    def miss(self, need: Amounts, now: float) -> None:
        """Note that a request found too little of it."""
        self._missed = Amounts(*map(sum, zip(self._missed, need, strict=True)))
        self._least = Amounts(*map(max, self._least, need))
        if self.requests < 1 and not self.dry_since:
            self.dry_since = now

    def due(self, now: float) -> bool:
        """Whether its account should be settled: more will be needed soon, or others need what is not, or it is time."""
        passed = now - self.synced_at
        if passed >= _RENEW_SECONDS:
            return not self.sleeping and (self.used != self._used_then or any(self.left) or any(self.taken))
        if now < self.closed_until or passed < _LOW_SECONDS / 2:
            return False
        if self._idle():
            scarce = (left and not free for left, free in zip(self.left, self.free, strict=True))
            return passed >= _SCARCE_SECONDS and any(scarce)
        return any(left < rate * _LOW_SECONDS for left, rate in zip(self.left, self._flow(passed), strict=True))

    def hold(self, now: float, *, ending: bool = False, keeping: bool = False) -> LeaseReport:
        """What to say of it. What is not wanted any more is given up at once, whether or not the word arrives.

        `keeping`: it is told of along with others, and keeps what it has.
        """
        wants = NO_AMOUNTS if ending else self._wants(now)
        if keeping:
            wants = Amounts(*map(max, wants, self.left))
        for index, (left, want) in enumerate(zip(self.left, wants, strict=True)):
            if left > want:
                self._change(index, want - left)
        age = now - self.dry_since if self.dry_since else 0.0
        days = tuple(self.days.items())
        hold = LeaseReport(self.rule.id, self.used, self.taken, wants, self._least, age, days, self._known)
        self._used_then, self._missed, self._least = hold.used, NO_AMOUNTS, NO_AMOUNTS
        self.synced_at, self.dry_since, self._left_then = now, 0.0, self.left
        return hold

    def take(self, grant: LeaseGrant, told: LeaseReport | None, now: float) -> None:
        """Hold what was granted in answer to `told`; None: what a caller's first question was answered with."""
        used = self._used_then if told is None else told.used
        if told is not None:
            self._known = used
        for index, limited in enumerate(self.limited):
            if limited:
                self._change(index, grant.granted[index] + used[index] - self._given[index])
        self.free, self.replicas, self.spent = grant.available, grant.instances, grant.spent
        self.synced_at, self._left_then = now, self.left
        self._refilled_at = [now, now]
        self.closed_until = 0.0
        if self.rule.period is not None:
            # Whoever is told that the money is gone should not be told so while some comes back.
            self.closed_until = now + (grant.retry_after or 0.0)
        elif grant.retry_after is not None:
            pace = self._rates[0]
            calm = min(_CALM_SECONDS, _CALM_REQUESTS / pace) if pace else _CALM_SECONDS
            self.closed_until = now + max(grant.retry_after, calm)
        elif told is not None and _shared_out(grant, told):
            self.closed_until = now + _SHARED_SECONDS

    def refill(self, now: float) -> None:
        """Nobody can be asked: go on by this process's part of the limits on requests and tokens. Money is not made up."""
        for index, resource in enumerate(_PER):
            of_it = [(name, most) for name, most in self.rule.most.items() if name.startswith(resource)]
            seconds = [
                60 * self.replicas / (most if name.endswith("minute") else most / 1440) for name, most in of_it if most
            ]
            if not seconds:
                continue
            slowest, passed = max(seconds), min(60.0, now - self._refilled_at[index])
            amount = int(passed / slowest)
            self._change(index, amount)
            if amount:
                self._refilled_at[index] = now - (passed - amount * slowest)

    def _idle(self) -> bool:
        return self.used == self._used_then and not any(self.taken) and not any(self._missed)

    def _wants(self, now: float) -> Amounts:
        passed = max(now - self.synced_at, 0.1)
        if self._idle() and passed >= _SCARCE_SECONDS:
            return NO_AMOUNTS
        self._rates = tuple(max(new, old / 2) for new, old in zip(self._flow(passed), self._rates, strict=True))
        rows = zip(self.limited, self._rates, self._part, self._least, self.taken, strict=True)
        wants = [
            max(int(rate * _SLICE_SECONDS), part, least, taken // 4) if limited else 0
            for limited, rate, part, least, taken in rows
        ]
        return Amounts(*wants)

    def _flow(self, passed: float) -> tuple[float, ...]:
        """How fast each was taken since the last settlement, what was missed included."""
        missed, left = self._missed, self.left
        return tuple((max(0, t - n) + m) / passed for t, n, m in zip(self._left_then, left, missed, strict=True))

    def _change(self, index: int, amount: int) -> None:
        self._given[index] += amount
        if index == 0:
            self.requests += amount
            if self.requests >= 1:
                self.dry_since = 0.0  # what is used from now on is used after any miss of before
        elif index == 1:
            self.tokens += amount
        elif index == 2:
            self.places += amount
        else:
            self.money += amount


def _shared_out(grant: LeaseGrant, told: LeaseReport) -> bool:
    """Whether so little is left that others keep their part of it: not worth a question for each piece."""
    rows = zip(grant.granted, grant.available, told.reserved, told.requested, strict=True)
    return any(free and held < taken + want for held, free, taken, want in rows)


def _least(amounts: Iterable[int]) -> int | None:
    return min(amounts, default=None)
