"""Limits and budgets during an outage of the control plane."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from llmariner.limits.budgets import NewBudget
from llmariner.limits.rules import Subject
from llmariner.usage.tables import prices

from .running_platform import eventually
from .test_control_plane import Functions, booted, functions

__all__ = ["functions"]  # a fixture of that file
PER_MINUTE = 240


@pytest.fixture
def subject(functions: Functions) -> Subject:
    owner = functions.home.owner
    return Subject(owner.organization_id, "project", owner.project_id)


def statuses(functions: Functions, count: int, *, limited: bool = True) -> list[int]:
    caller = functions.limited if limited else functions.known

    async def scenario() -> list[int]:
        return [(await caller.chat("static", max_tokens=1)).status for _ in range(count)]

    return asyncio.run(scenario())


@pytest.mark.quiet
def test_a_cached_key_continues_at_the_rate_of_its_limit(functions: Functions, subject: Subject) -> None:
    functions.home.context.limits.put(None, subject, "*", {"requests_per_minute": PER_MINUTE})
    with booted("internal_gateway", functions.control_port, functions.control, functions.log):
        assert statuses(functions, 1) == [200]
    # The last slice first, and then four a second.
    began = time.monotonic()
    found: list[int] = []
    while time.monotonic() - began < 10:
        found += statuses(functions, 20)
        time.sleep(0.5)
    took = time.monotonic() - began
    served = found.count(200)
    print(f"\n{served} let through in {took:.1f} s without anybody to ask, {len(found) - served} refused")
    assert set(found) == {200, 429}
    assert 0.5 * took * PER_MINUTE / 60 < served <= PER_MINUTE / 64 + 1 + (took + 1) * PER_MINUTE / 60
    with booted("internal_gateway", functions.control_port, functions.control, functions.log):
        rule = functions.home.context.limits.for_subject(subject)[0].id
        accounts = functions.home.context.leases.quota_states
        # What was used meanwhile is reported, and counts.
        eventually(
            lambda: accounts([rule])[rule].current_usage()["requests_per_minute"] >= served and statuses(functions, 1),
            seconds=30,
            what="the settlement",
        )


def test_budgets_do_not_grow_during_an_outage(functions: Functions, subject: Subject) -> None:
    context = functions.home.context
    with context.database.write() as session:
        price = {"prompt": 0, "cached_prompt": 0, "completion": 10**9, "request": 0, "created_at": 0}
        session.add(prices, id="price_1", model="static", valid_from=1.0, **price)
    context.budgets.put(None, subject, "total", NewBudget(1000 * 6400))
    with booted("internal_gateway", functions.control_port, functions.control, functions.log):
        assert statuses(functions, 1, limited=False) == [200]
    found = statuses(functions, 300, limited=False)
    assert found[0] == 200
    assert set(found) == {200, 503}
    assert found.count(200) < 250


def test_usage_during_an_outage_is_in_the_ledger(functions: Functions, tmp_path: Path) -> None:
    with booted("internal_gateway", functions.control_port, functions.control, functions.log):
        assert statuses(functions, 1) == [200]
    assert statuses(functions, 5) == [200] * 5
    with booted("internal_gateway", functions.control_port, functions.control, functions.log):
        eventually(lambda: len(functions.home.ledger("static")) == 6, what="all of it in the ledger")
