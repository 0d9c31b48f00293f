"""Simulated gateway instances that share one limit in virtual time: requests admitted, and leases needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, LeaseReport, Rule
from llmariner.gateway.limits.leased_quota import LeasedQuota
from llmariner.limits.quota_state import QuotaState

__all__ = ["EMPTY", "EPOCH", "FakeUsageSource", "Fleet", "max_in_window"]

EPOCH = 1_700_000_000.0
EMPTY = "{}"


class FakeUsageSource:
    """A ledger that holds only what the test sets."""

    def __init__(self) -> None:
        self.used: dict[str, Amounts] = {}
        self.cost = 0

    def unreported_usage(self, rule: Rule, instance: str, since: float) -> Amounts:
        return self.used.pop(instance, NO_AMOUNTS)

    def spent_since(self, rule: Rule, since: float) -> int:
        return self.cost


class Gateway:
    """One gateway instance: its slice, and the times of admitted requests."""

    def __init__(self, name: str, rule: Rule) -> None:
        self.name = name
        self.slice = LeasedQuota(rule)
        self.admitted: deque[float] = deque()
        self.alive = True


class Fleet:
    """`size` gateways; every lease goes through the stored form of the state, as it does in a database."""

    def __init__(self, rule: Rule, size: int) -> None:
        self.rule = rule
        self.state = EMPTY
        self.now = 0.0
        self.usage_source = FakeUsageSource()
        self.gateways = [Gateway(f"req_{number}", rule) for number in range(size)]
        self.leases = 0
        self.offered = 0

    def run(self, seconds: float, per_second: float, *, step: float = 0.01) -> None:
        """Offer requests to all live instances in turn."""
        due, end = 0.0, self.now + seconds
        turn = 0
        while self.now < end:
            self.now += step
            due += per_second * step
            alive = [gateway for gateway in self.gateways if gateway.alive]
            while due >= 1:
                due -= 1
                turn += 1
                self.offer(alive[turn % len(alive)])
            if int(self.now / 0.5) != int((self.now - step) / 0.5):
                for gateway in alive:
                    if gateway.slice.needs_sync(self.now):
                        self.sync(gateway)

    def offer(self, gateway: Gateway) -> bool:
        """Offer one request; return whether it was admitted."""
        self.offered += 1
        slice_ = gateway.slice
        if slice_.requests < 1:
            slice_.record_shortage(Amounts(1), self.now)
            if self.now < slice_.blocked_until:
                return False
            self.sync(gateway)
        if slice_.requests < 1:
            return False
        slice_.requests -= 1
        gateway.admitted.append(self.now)
        return True

    def sync(self, gateway: Gateway, *, release_all: bool = False) -> None:
        """Report one instance's usage, and apply the grant."""
        report = gateway.slice.report(self.now, release_all=release_all)
        gateway.slice.apply_grant(self.lease(gateway.name, report), report, self.now)

    def lease(self, name: str, report: LeaseReport):  # type: ignore[no-untyped-def]
        self.leases += 1
        state = QuotaState.load(self.rule, self.state)
        state.advance(EPOCH + self.now, self.usage_source)
        grant = state.grant_lease(report, name, EPOCH + self.now, EPOCH + self.now)
        self.state = state.dump()
        return grant

    def admitted(self) -> list[float]:
        """The times of admitted requests of all instances, sorted."""
        return sorted(at for gateway in self.gateways for at in gateway.admitted)


def max_in_window(times: list[float], seconds: float) -> int:
    """The maximum number of events within any span of `seconds`."""
    return max(_counts(times, seconds), default=0)


def _counts(times: list[float], seconds: float) -> Iterator[int]:
    first = 0
    for last, at in enumerate(times):
        while times[first] <= at - seconds:
            first += 1
        yield last - first + 1
