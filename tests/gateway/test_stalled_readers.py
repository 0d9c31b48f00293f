"""A stalled client of a stream loses its slot after a timeout; no client holds all slots of a shared model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llmariner.gateway.admission.queue import AdmissionQueue
from llmariner.gateway.control_plane.port import ModelState

from .caller import Answer
from .running_platform import eventually, running

# An engine repeats the model's name in every event: with this one an event is half a kilobyte.
LONG = "stalled-" + "x" * 190


@pytest.mark.parametrize("server", ["own", "uvicorn"])
def test_stalled_clients_lose_their_slots_to_waiting_requests(server: str, tmp_path: Path, database: Path) -> None:
    with running(tmp_path, database, server=server, WRITE_TIMEOUT_SECONDS="1") as platform:
        model = platform.model(LONG, capacity=2)

        async def scenario() -> tuple[list[Answer], Answer]:
            stalled = [await platform.caller.stream(model, max_tokens=10**6) for _ in range(2)]
            for answer in stalled:
                await answer.until(b"data: {")
            other = await platform.tenant("patient").chat(model, max_tokens=2, headers={"prefer": "wait=30"})
            for answer in stalled:
                answer.hang_up()
            await asyncio.sleep(0.05)
            return stalled, other

        stalled, other = asyncio.run(scenario())
        assert other.status == 200
        for answer in stalled:
            row = platform.row(answer.headers["x-request-id"])
            assert (row["outcome"], row["status"]) == ("cancelled", 499)
        eventually(lambda: platform.engine(model).running == 0)


def state(capacity: int) -> ModelState:
    return ModelState("m", None, "generate", True, True, "ready", 1.0, 0.0, "", "http://e", capacity, 0)


def room(capacity: int) -> AdmissionQueue:
    made = AdmissionQueue(100, 100)
    made.update(state(capacity))
    return made


def test_a_single_tenant_gets_all_slots() -> None:
    alone = room(16)
    assert [alone.try_admit("a") for _ in range(17)] == [True] * 16 + [False]


def test_a_tenant_of_a_shared_model_leaves_the_last_slots_to_others() -> None:
    async def scenario() -> None:
        shared = room(16)
        assert shared.try_admit("b")
        shared.release_slot("b")
        assert [shared.try_admit("a") for _ in range(15)] == [True] * 14 + [False]
        waiter = shared.enqueue("a")
        assert not waiter.admitted.done()
        # The slots that it leaves go to other tenants, although it has waiting requests.
        assert shared.enqueue("b").admitted.done()
        assert shared.enqueue("c").admitted.done()
        shared.release_slot("a")
        assert waiter.admitted.done()

    asyncio.run(scenario())


def test_the_tenant_with_the_fewest_running_requests_is_next() -> None:
    async def scenario() -> None:
        shared = room(3)
        assert [shared.try_admit("a") for _ in range(3)] == [True] * 3
        first = [shared.enqueue("a") for _ in range(3)]
        second = [shared.enqueue("b") for _ in range(3)]
        shared.release_slot("a")
        assert [waiter.admitted.done() for waiter in (*first, *second)] == [False] * 3 + [True] + [False] * 2
        shared.release_slot("b")
        assert [waiter.admitted.done() for waiter in (*first, *second)] == [False] * 3 + [True] * 2 + [False]
        shared.release_slot("a")
        # One each is running: in turn.
        assert [waiter.admitted.done() for waiter in (*first, *second)] == [True] + [False] * 2 + [True] * 2 + [False]

    asyncio.run(scenario())


def test_small_models_reserve_no_slot() -> None:
    shared = room(3)
    assert shared.try_admit("b")
    shared.release_slot("b")
    assert [shared.try_admit("a") for _ in range(3)] == [True] * 3


def test_a_key_without_its_own_limit_has_a_concurrency_limit(tmp_path: Path, database: Path) -> None:
    with running(tmp_path, database, CONCURRENT_REQUESTS="3") as platform:
        model = platform.model("one-key", "--token-interval", "10")
        caller = platform.key("eager", limited=True)[1]

        async def scenario() -> tuple[Answer, Answer]:
            streams = [await caller.stream(model, max_tokens=10_000) for _ in range(3)]
            for stream in streams:
                await stream.until(b"data: {")
            fourth = await caller.chat(model, max_tokens=1)
            streams[0].hang_up()
            await asyncio.sleep(1.5)
            again = await caller.chat(model, max_tokens=1)
            for stream in streams:
                stream.hang_up()
            await asyncio.sleep(0.05)
            return fourth, again

        fourth, again = asyncio.run(scenario())
        assert (fourth.status, again.status) == (429, 200)
        assert "concurrent requests: Limit 3" in fourth.error()["message"]
