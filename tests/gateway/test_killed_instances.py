"""One of eight chat functions is killed under one limit: what it had leased comes back.

A file of its own, so that it runs beside `test_many_instances.py`: both wait for a minute.
"""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from llmariner.limits.quota_state import LEASE_SECONDS

from .fleet import SIZE, Fleet, fleet, limit, slices

__all__ = ["fleet"]  # a fixture
pytestmark = pytest.mark.quiet


def test_a_killed_instance_loses_at_most_its_lease(fleet: Fleet) -> None:
    day = 2000
    limit(fleet.functions.home, requests_per_day=day)
    first = asyncio.run(fleet.load(4, 100))
    assert first.refused == 0
    fleet.processes[0].send_signal(signal.SIGKILL)
    fleet.processes[0].wait(10)
    held = slices(fleet.functions.home)
    assert len(held) == SIZE
    alive = fleet.callers[1:]
    second = asyncio.run(fleet.load(10, 250, alive))
    served = len(first.served) + len(second.served)
    lost = day - served
    print(
        f"\n{lost} of {day} requests were lost with the killed function, for as long as its lease lasts; held: {held}"
    )
    assert second.refused > 0
    assert 0 <= lost <= max(held)
    # The lease expires: usage that the ledger does not have is available again.
    deadline = time.monotonic() + LEASE_SECONDS + 10
    while time.monotonic() < deadline:
        served += len(asyncio.run(fleet.load(2, 20, alive)).served)
    assert asyncio.run(fleet.load(4, 20, alive)).served == []
    # What the killed function had answered and not sent to the ledger yet, half a second of it, comes on top.
    assert day <= served <= day + 15
