"""What a process of the token path still holds at its end."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from llmariner import boot
from llmariner.errors import Unavailable
from llmariner.gateway.control import Key
from llmariner.gateway.meter import Meter


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
        key = Key("key_1", "proj_1", "org_1", "user_1", frozenset(), None, False)
        meter.close(meter.admit("req_1", key, "m", "chat_completions"), "succeeded", 200)
        await meter.give_away()
        return away

    away = asyncio.run(end())
    assert [event["request_id"] for event in away.taken] == ["req_1"]


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
