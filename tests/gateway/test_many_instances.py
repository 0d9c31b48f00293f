"""Eight chat functions, each in its own process, under one limit and ten times as many requests."""

from __future__ import annotations

import asyncio

import pytest

from .fleet import SIZE, Fleet, admissions, fleet, limit

__all__ = ["fleet"]  # a fixture
pytestmark = pytest.mark.quiet

PER_MINUTE = 3600
TIMES = 10
MINUTE = 60.0


def test_eight_instances_together_admit_exactly_the_limit(fleet: Fleet) -> None:
    limit(fleet.functions.home, requests_per_minute=PER_MINUTE)
    warm = asyncio.run(fleet.load(2, SIZE / 2))
    assert len(warm.served) == SIZE
    before = fleet.statements()
    outcome = asyncio.run(fleet.load(MINUTE + 15, TIMES * PER_MINUTE / MINUTE))
    asked = fleet.statements() - before
    # The ledger has when a request was counted, which is a moment after it was let through, and never before.
    admitted = [at for at in admissions(fleet.functions.home, SIZE + len(outcome.served)) if at >= outcome.began]
    minute = sum(at < outcome.began + MINUTE for at in admitted)
    rest = len(admitted) - minute
    print(
        f"\n{outcome.offered} requests at ten times the limit: {minute} of {PER_MINUTE} let through in the first minute, "
        f"{rest} after it; {outcome.offered / asked['allowances']:.0f} requests per statement for limits, "
        f"{outcome.offered / asked.total():.0f} per statement of any kind: {dict(asked)}"
    )
    assert outcome.broken == 0
    assert 0.95 * PER_MINUTE <= minute <= PER_MINUTE
    assert rest > 0
    assert len(admitted) == len(outcome.served)
    assert outcome.offered / asked.total() > 50
