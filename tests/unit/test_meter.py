"""What a process of the token path still holds at its end."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest

from llmariner import boot
from llmariner.errors import Unavailable
from llmariner.gateway.control import Key
from llmariner.gateway.meter import Meter, Metered

KEY = Key("key_1", "proj_1", "org_1", "user_1", frozenset(), None, False)


class Away:
    """A ledger that answers only the third time."""

    def __init__(self) -> None:
        self.asked = 0
        self.taken: list[dict[str, Any]] = []

    async def record(self, events: list[dict[str, Any]]) -> None:
        self.asked += 1
        if self.asked < 3:
            raise Unavailable("The database does not answer.")
        self.taken += events


def test_a_process_that_ends_waits_for_who_keeps_the_ledger() -> None:
    async def end() -> Away:
        away = Away()
        meter = Meter(away)  # type: ignore[arg-type]
        meter.close(meter.admit("req_1", KEY, "m", "chat_completions"), "succeeded", 200)
        await meter.give_away()
        return away

    away = asyncio.run(end())
    assert [event["request_id"] for event in away.taken] == ["req_1"]


@pytest.mark.parametrize(
    ("ready_after", "woke", "queued"), [(-5.0, 0.0, 2.0), (0.5, 0.5, 1.5), (9.0, 2.0, 0.0), (math.inf, 2.0, 0.0)]
)
def test_a_wait_is_told_apart_by_whether_the_model_was_ready(ready_after: float, woke: float, queued: float) -> None:
    metered = Metered("req_1", KEY, "m", "chat_completions")
    began = time.monotonic() - 2.0
    metered.waited(began, began + ready_after)
    assert (metered.wake_seconds, metered.queued_seconds) == pytest.approx((woke, queued), abs=0.2)
    event = metered.event("closed")
    assert (event["wake_seconds"], event["queued_seconds"]) == (metered.wake_seconds, metered.queued_seconds)


def test_a_function_ends_after_its_last_stream_and_then_closes_its_application(monkeypatch: Any) -> None:
    closed: list[object] = []

    class Application:
        async def close(self) -> None:
            closed.append("closed")

    class Ended:
        def __init__(self, *_: Any, grace: float, **__: Any) -> None:
            closed.append(grace)

        async def serve(self) -> None: ...

    monkeypatch.setattr(boot, "Server", Ended)
    boot.serve(Application(), host="127.0.0.1", port=1)
    assert closed == [math.inf, "closed"]
