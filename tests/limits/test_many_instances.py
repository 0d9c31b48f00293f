"""Eight gateway instances under one limit admit exactly the limit together, for any load and after crashes."""

from __future__ import annotations

import pytest

from llmariner.gateway.control_plane.port import Amounts, Rule

from .simulated_instances import Fleet, max_in_window

MINUTE = 60.0
PER_MINUTE = 3000


def fleet(size: int = 8, **most: int) -> Fleet:
    return Fleet(Rule("limit_1", "org_1", "project", "proj_1", "*", most or {"requests_per_minute": PER_MINUTE}), size)


def count_within(times: list[float], start: float, end: float) -> int:
    return sum(start <= at < end for at in times)


def test_the_limit_is_admitted_once_per_minute_under_ten_times_the_load() -> None:
    gateways = fleet()
    gateways.run(3 * MINUTE, 10 * PER_MINUTE / MINUTE)
    times = gateways.admitted()
    assert max_in_window(times, MINUTE) <= PER_MINUTE
    for minute in range(3):
        assert count_within(times, minute * MINUTE, (minute + 1) * MINUTE) >= 0.95 * PER_MINUTE


def test_a_lease_serves_many_requests() -> None:
    gateways = fleet()
    gateways.run(3 * MINUTE, 10 * PER_MINUTE / MINUTE)
    # A lease is three statements on SQLite, its BEGIN counted, and two on PostgreSQL.
    assert gateways.offered / (3 * gateways.leases) > 50


def test_a_load_below_the_limit_is_admitted_completely() -> None:
    gateways = fleet()
    gateways.run(2 * MINUTE, 0.5 * PER_MINUTE / MINUTE)
    assert len(gateways.admitted()) == gateways.offered


def test_a_small_limit_is_exact() -> None:
    gateways = fleet(requests_per_minute=6)
    gateways.run(2 * MINUTE, 1.0)
    assert max_in_window(gateways.admitted(), MINUTE) == 6
    assert count_within(gateways.admitted(), MINUTE, 2 * MINUTE) >= 5


def test_the_narrower_of_two_windows_decides() -> None:
    gateways = fleet(requests_per_minute=600, requests_per_day=900)
    gateways.run(3 * MINUTE, 100.0)
    assert count_within(gateways.admitted(), 0, MINUTE) == 600
    assert len(gateways.admitted()) == 900


@pytest.mark.parametrize("reported", [False, True])
def test_a_killed_instance_loses_its_lease_until_its_expiry(reported: bool) -> None:
    gateways = fleet(size=2, requests_per_day=1000)
    dead, alive = gateways.gateways
    # One request gets a slice; then the instance dies with the rest of it.
    gateways.offer(dead)
    dead.alive = False
    held = dead.slice.remaining.requests
    assert held > 10
    if reported:
        gateways.usage_source.used[dead.name] = Amounts(1)
    gateways.run(20, 200)
    assert len(alive.admitted) == 1000 - held - 1
    gateways.run(40, 200)
    assert len(alive.admitted) == 1000 - (1 if reported else 0)


def test_idle_quota_returns_to_instances_that_need_it() -> None:
    gateways = fleet(size=2, requests_per_day=1000)
    idle, busy = gateways.gateways
    gateways.offer(idle)
    for _ in range(6000):
        gateways.now += 0.01
        gateways.offer(busy)
        if gateways.now % 0.5 < 0.01:
            for gateway in (idle, busy):
                if gateway.slice.needs_sync(gateways.now):
                    gateways.sync(gateway)
    assert len(gateways.admitted()) == 1000


def test_an_instance_that_shuts_down_returns_its_quota_at_once() -> None:
    gateways = fleet(size=2, requests_per_day=1000)
    ending, other = gateways.gateways
    gateways.offer(ending)
    gateways.sync(ending, release_all=True)
    ending.alive = False
    gateways.run(20, 200)
    assert len(other.admitted) == 999


def test_a_repeated_lease_counts_once() -> None:
    gateways = fleet(size=1, requests_per_day=100)
    one = gateways.gateways[0]
    gateways.offer(one)
    hold = one.slice.report(gateways.now)
    first = gateways.lease(one.name, hold)
    second = gateways.lease(one.name, hold)
    assert first == second
    one.slice.apply_grant(second, hold, gateways.now)
    gateways.run(30, 20)
    assert len(gateways.admitted()) == 100


def test_a_miss_during_a_lease_request_does_not_backdate_later_usage() -> None:
    gateways = fleet(size=1)
    one = gateways.gateways[0].slice
    one.record_shortage(Amounts(1), 9.0)
    hold = one.report(10.0)
    assert hold.seconds_since_use == 1
    grant = gateways.lease("req_0", hold)
    one.record_shortage(Amounts(1), 10.1)
    one.apply_grant(grant, hold, 10.2)
    one.requests -= 1
    assert one.report(15.0).seconds_since_use == 0


def test_a_lease_without_tokens_remains_usable_for_requests() -> None:
    gateways = fleet(size=1, requests_per_minute=PER_MINUTE, tokens_per_minute=100)
    one = gateways.gateways[0].slice
    gateways.now = 10.0
    one.record_shortage(Amounts(1, 1), 9.0)
    gateways.sync(gateways.gateways[0])
    assert one.requests >= 1
    one.record_shortage(Amounts(1, 1000), 11.0)
    one.requests -= 1
    assert one.report(15.0).seconds_since_use == 0
