"""The meter: events that are pending at the end of a process or during an outage of the ledger."""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmariner import boot
from llmariner.compiled import is_active
from llmariner.errors import InvalidRequest, Unavailable
from llmariner.gateway import background_tasks as supervision
from llmariner.gateway.control_plane.port import Key
from llmariner.gateway.metering import meter
from llmariner.gateway.metering.meter import Meter, MeteredRequest
from llmariner.gateway.metering.metrics import Metrics

KEY = Key("key_1", "proj_1", "org_1", "user_1", frozenset(), None, False)


class UnavailableControlPlane:
    """A ledger that answers only the third time."""

    def __init__(self) -> None:
        self.asked = 0
        self.taken: list[dict[str, Any]] = []

    async def record_events(self, events: list[dict[str, Any]]) -> None:
        self.asked += 1
        if self.asked < 3:
            raise Unavailable("The database does not answer.")
        self.taken += events


def test_a_shutdown_waits_for_the_ledger() -> None:
    async def end() -> UnavailableControlPlane:
        away = UnavailableControlPlane()
        meters = Meter(away, Metrics())  # type: ignore[arg-type]
        meters.close(meters.open("req_1", KEY, "m", "chat_completions"), "succeeded", 200)
        await meters.flush()
        return away

    away = asyncio.run(end())
    assert [event["request_id"] for event in away.taken] == ["req_1"]


class FlakyControlPlane:
    """A ledger that responds late or never, before or after the commit."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.taken: list[tuple[str, int]] = []

    async def record_events(self, events: list[dict[str, Any]]) -> None:
        await asyncio.sleep(self._chance.choice([0.0, 0.005, 0.02]))
        fate = self._chance.choice(["taken", "taken", "lost", "unheard"])
        if fate != "lost":
            self.taken += [(event["request_id"], event["sequence"]) for event in events]
        if fate != "taken":
            raise Unavailable("The database does not answer.")


@pytest.mark.parametrize("seed", range(5))
def test_every_event_is_recorded_for_any_batches_and_responses(seed: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(meter, "_FLUSH_SECONDS", 0.002)
    monkeypatch.setattr(meter, "_BATCH_SIZE", 3)
    names = {f"req_{number}" for number in range(100)}

    async def live() -> FlakyControlPlane:
        unsure = FlakyControlPlane(random.Random(seed))
        meters = Meter(unsure, Metrics())  # type: ignore[arg-type]
        running = asyncio.create_task(meters.run())
        for name in names:
            meters.close(meters.open(name, KEY, "m", "chat_completions"), "succeeded", 200)
            if seed % 2:
                await asyncio.sleep(0.001)
        running.cancel()
        await meters.flush()
        return unsure

    assert {name for name, _ in asyncio.run(live()).taken} == names


def test_a_slow_response_delays_no_later_event(monkeypatch: Any) -> None:
    monkeypatch.setattr(meter, "_FLUSH_SECONDS", 0.01)

    class Slow:
        def __init__(self) -> None:
            self.given: list[str] = []

        async def record_events(self, events: list[dict[str, Any]]) -> None:
            self.given += [event["request_id"] for event in events]
            await asyncio.sleep(0 if len(self.given) > 1 else 60)

    async def live() -> list[str]:
        slow = Slow()
        meters = Meter(slow, Metrics())  # type: ignore[arg-type]
        running = asyncio.create_task(meters.run())
        for name in ("first", "second"):
            meters.close(meters.open(name, KEY, "m", "chat_completions"), "succeeded", 200)
            for _ in range(500):
                await asyncio.sleep(0.01)
                if name in slow.given:
                    break
        running.cancel()
        return slow.given

    assert asyncio.run(live()) == ["first", "second"]


class RejectingControlPlane:
    """A ledger that refuses whatever holds an event of one request."""

    def __init__(self, poison: str, error: Exception) -> None:
        self._poison, self._error = poison, error
        self.taken: list[str] = []

    async def record_events(self, events: list[dict[str, Any]]) -> None:
        names = [event["request_id"] for event in events]
        if self._poison in names:
            raise self._error
        self.taken += names


@pytest.mark.parametrize("error", [InvalidRequest("no"), OverflowError("too large"), TypeError("not JSON")], ids=repr)
def test_an_event_rejected_by_the_ledger_loses_no_other(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    choosy, metrics = RejectingControlPlane("req_123", error), Metrics()

    async def work() -> None:
        meters = Meter(choosy, metrics)  # type: ignore[arg-type]
        for number in range(500):
            meters.close(meters.open(f"req_{number}", KEY, "m", "chat_completions"), "succeeded", 200)
        await meters.flush()

    asyncio.run(work())
    assert sorted(choosy.taken) == sorted(f"req_{number}" for number in range(500) if number != 123)
    assert metrics.rejected_events == 1
    [said] = caplog.messages
    assert "req_123" in said


def test_a_running_request_sends_checkpoints_and_heartbeats() -> None:
    metered = MeteredRequest("req_1", KEY, "m", "chat_completions")
    now = metered.next_event("admitted")["at"]
    assert [metered.needs_checkpoint(now + seconds) for seconds in (0.5, 2.0, 14.9, 15.1)] == [
        False,
        False,
        False,
        True,
    ]
    metered.usage = b'"usage":{"prompt_tokens":3,"completion_tokens":1}'
    assert [metered.needs_checkpoint(now + seconds) for seconds in (0.5, 1.1)] == [False, True]
    assert metered.needs_checkpoint(now - 3600), "the clock was set back: without a sign it would count as gone"


@pytest.mark.parametrize("answers", [False, True])
def test_a_long_outage_of_the_ledger_has_bounded_memory(
    answers: bool, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(meter, "_FLUSH_SECONDS", 0.005)
    monkeypatch.setattr(meter, "_MAX_QUEUED_EVENTS", 20)
    monkeypatch.setattr(meter, "_BATCH_SIZE", 2)
    back = asyncio.Event()
    taken: list[dict[str, Any]] = []

    class HangingControlPlane:
        async def record_events(self, events: list[dict[str, Any]]) -> None:
            if answers and not back.is_set():
                raise Unavailable("away")
            await back.wait()
            taken.extend(events)

    async def work() -> tuple[int, Meter]:
        metrics = Metrics()
        meters = Meter(HangingControlPlane(), metrics)  # type: ignore[arg-type]
        running = asyncio.create_task(meters.run())
        under_way = [meters.open(f"open_{number}", KEY, "m", "chat_completions") for number in range(15)]
        await wait_until(lambda: all(each.recorded for each in under_way))
        for number in range(15):
            meters.close(meters.open(f"req_{number}", KEY, "m", "chat_completions"), "succeeded", 200)
        await wait_until(lambda: len(meters._events) <= 20)
        assert metrics.lost_events == 0, "what a later event repeats goes first"
        for number in range(15, 60):
            meters.close(meters.open(f"req_{number}", KEY, "m", "chat_completions"), "succeeded", 200)
        await wait_until(lambda: len(meters._events) <= 20)
        running.cancel()
        back.set()
        await meters.flush()
        return metrics.lost_events, meters

    lost, meters = asyncio.run(work())
    names = [event["request_id"] for event in taken if event["kind"] == "closed"]
    assert not meters._events
    assert lost > 0
    assert len(names) + lost == 60
    assert "req_59" in names, "the newest are kept"
    assert any("is lost" in said for said in caplog.messages)


@pytest.mark.skipif(is_active(), reason="the test looks into interpreted code")
def test_a_request_that_cannot_be_counted_stops_no_other(monkeypatch: Any) -> None:
    monkeypatch.setattr(meter, "_FLUSH_SECONDS", 0.005)
    choosy = RejectingControlPlane("", ValueError())

    class BrokenRequest(MeteredRequest):
        def needs_checkpoint(self, now: float) -> bool:
            raise ValueError(now)

    async def work() -> None:
        meters = Meter(choosy, Metrics())  # type: ignore[arg-type]
        broken = BrokenRequest("req_1", KEY, "m", "chat_completions")
        broken.recorded = True
        meters._open.add(broken)
        running = asyncio.create_task(meters.run())
        await asyncio.sleep(0.02)
        meters.open("req_2", KEY, "m", "chat_completions")
        await wait_until(lambda: "req_2" in choosy.taken)
        running.cancel()

    asyncio.run(work())


def test_a_failed_task_is_restarted(monkeypatch: Any, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(supervision, "_PAUSE_SECONDS", 0.001)
    begun: list[int] = []

    async def fails_twice() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise ValueError("on purpose")
        await asyncio.sleep(60)

    async def work() -> None:
        task = asyncio.create_task(supervision.supervise(fails_twice))
        await wait_until(lambda: len(begun) == 3)
        task.cancel()

    asyncio.run(work())
    assert len([said for said in caplog.messages if "is restarted" in said]) == 2


async def wait_until(fact: Callable[[], bool]) -> None:
    for _ in range(4000):
        if fact():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true")


@pytest.mark.parametrize(
    ("ready_after", "wake_wait", "queued"), [(-5.0, 0.0, 2.0), (0.5, 0.5, 1.5), (9.0, 2.0, 0.0), (math.inf, 2.0, 0.0)]
)
def test_waits_are_distinguished_by_model_readiness(ready_after: float, wake_wait: float, queued: float) -> None:
    metered = MeteredRequest("req_1", KEY, "m", "chat_completions")
    began = time.monotonic() - 2.0
    metered.add_wait(began, began + ready_after)
    assert (metered.wake_seconds, metered.queued_seconds) == pytest.approx((wake_wait, queued), abs=0.2)
    event = metered.next_event("closed")
    assert (event["wake_seconds"], event["queued_seconds"]) == (metered.wake_seconds, metered.queued_seconds)


def test_a_function_stops_after_its_last_stream_and_then_closes_its_application(monkeypatch: Any) -> None:
    closed: list[object] = []

    class Application:
        async def close(self) -> None:
            closed.append("closed")

    class StoppedServer:
        def __init__(self, *_: Any, grace: float, **__: Any) -> None:
            closed.append(grace)

        async def serve(self) -> None: ...

    monkeypatch.setattr(boot, "Server", StoppedServer)
    boot.serve(Application(), host="127.0.0.1", port=1)
    assert closed == [math.inf, "closed"]


class OnceRejectingControlPlane:
    """A ledger that rejects the first batch, and records what is being handled in other tasks meanwhile."""

    def __init__(self) -> None:
        self.asked = 0

    async def record_events(self, events: list[dict[str, Any]]) -> None:
        self.asked += 1
        if self.asked == 1:
            raise InvalidRequest("An event is invalid.")
        await asyncio.sleep(0.05)


def test_the_search_for_a_rejected_event_leaves_no_exception_to_other_tasks() -> None:
    async def others() -> list[BaseException | None]:
        meters = Meter(OnceRejectingControlPlane(), Metrics())  # type: ignore[arg-type]
        for number in (1, 2):
            meters.close(meters.open(f"req_{number}", KEY, "m", "chat_completions"), "succeeded", 200)
        flushed = asyncio.create_task(meters.flush())
        seen = []
        while not flushed.done():
            seen.append(sys.exception())
            await asyncio.sleep(0.01)
        return seen

    assert set(asyncio.run(others())) == {None}
