"""Slots of an engine: each is granted once, and passed on by requests that are cancelled at their admission."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmariner.errors import PlatformError
from llmariner.gateway.admission.queue import AdmissionQueue
from llmariner.gateway.control_plane.port import ModelState


def model_state(capacity: int, **values: Any) -> ModelState:
    facts = {"phase": "ready", "progress": 1.0, "estimate_seconds": None, "message": "", "engine_waiting": 0}
    whose = {"id": "m", "project_id": None, "task": "generate", "loaded": True, "on_demand": True}
    return ModelState(**{**whose, **facts, "endpoint": "http://engine", "capacity": capacity, **values})


def test_a_slot_for_a_request_cancelled_at_that_moment_goes_to_the_next() -> None:
    async def scenario() -> None:
        room = AdmissionQueue(10, 10)
        room.update(model_state(1))
        assert room.try_admit("a")
        first, second = room.enqueue("a", None), room.enqueue("b", None)
        room.release_slot("a")
        given, other = (first, second) if first.admitted.done() else (second, first)
        assert given.admitted.done()
        assert not other.admitted.done()
        room.cancel(given)  # its caller disconnected before it could continue
        assert other.admitted.done()
        assert (room.running, room.waiting) == (1, 0)
        room.release_slot(other.tenant)
        assert room.is_idle

    asyncio.run(scenario())


@pytest.mark.parametrize("failed", [True, False])
def test_a_request_cancelled_without_a_slot_releases_none(failed: bool) -> None:
    async def scenario() -> None:
        room = AdmissionQueue(10, 10)
        room.update(model_state(1))
        assert room.try_admit("a")
        waiter = room.enqueue("a", None)
        if failed:
            room.fail_all(PlatformError("it can't be started"))
        room.cancel(waiter)
        room.cancel(waiter)
        assert (room.running, room.waiting) == (1, 0)
        if failed:
            assert waiter.admitted.exception() is not None

    asyncio.run(scenario())


class CountedReads(dict[str, int]):
    """The numbers of running requests, which the choice of a tenant reads."""

    reads = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.reads += 1
        return super().get(key, default)


def test_a_model_that_a_thousand_tenants_wait_for_admits_them_in_turn_without_going_through_all_for_each() -> None:
    async def scenario() -> None:
        room = AdmissionQueue(3000, 3)
        waiters = [room.enqueue(f"tenant-{number}") for _ in range(2) for number in range(1000)]
        counted = room._running_by_tenant = CountedReads()
        room.update(model_state(1200))
        admitted = [waiter.tenant for waiter in waiters if waiter.admitted.done()]
        assert admitted == [f"tenant-{number}" for number in (*range(1000), *range(200))]
        assert counted.reads < 20_000
        room.release_slot("tenant-7")  # with two running, it comes behind those with one
        assert waiters[1200].admitted.done()

    asyncio.run(scenario())
