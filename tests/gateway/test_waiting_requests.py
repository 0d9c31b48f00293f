"""A model's status includes requests in the engine's queue and those that wait in gateway instances."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import pytest

from llmariner.platform.serving import Phase, Status
from llmariner.platform.serving import waiting_requests as module
from llmariner.platform.serving.waiting_requests import WaitingRequests

from .running_platform import Platform


def test_requests_that_wait_for_a_waking_model_are_reported(platform: Platform) -> None:
    name = platform.model("looked-at", "--ready-after", "4", "--tokens", "1")

    async def shown() -> tuple[int, int]:
        model = (await platform.caller.call(f"/v1/models/{name}")).json()
        status: Any = (await platform.caller.call("/v1/inference/status")).json()
        rows = status["cluster_statuses"][0]["engine_statuses"][0]["models"]
        row = next(row for row in rows if row["id"] == name)
        return model["serving"]["requests_waiting"], row["requests_waiting"]

    async def scenario() -> tuple[tuple[int, int], tuple[int, int]]:
        waiting = [asyncio.create_task(platform.caller.chat(name)) for _ in range(31)]
        seen = (0, 0)
        while seen != (31, 31) and not any(each.done() for each in waiting):
            await asyncio.sleep(0.2)
            seen = await shown()
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
        for _ in range(100):
            await asyncio.sleep(0.2)
            if (after := await shown()) == (0, 0):
                break
        return seen, after

    assert asyncio.run(scenario()) == ((31, 31), (0, 0))


def test_counts_of_all_instances_are_added_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = WaitingRequests()
    waiting.report("one", {"m": 3})
    waiting.report("two", {"m": 4, "n": 1})
    waiting.report("two", {"m": 5, "n": 1})
    assert waiting.add_to("m", Status(requests_waiting=2)).requests_waiting == 10
    ready = Status(Phase.READY)
    assert waiting.add_to("other", ready) is ready
    everything = waiting.add_to_all({"m": ready, "other": ready})
    assert {name: status.requests_waiting for name, status in everything.items()} == {"m": 8, "other": 0, "n": 1}
    waiting.report("two", {})
    assert waiting.add_to("m", Status()).requests_waiting == 3
    monkeypatch.setattr(module, "_FRESH_SECONDS", 0.0)
    assert waiting.add_to("m", Status()).requests_waiting == 0


def test_the_number_of_instances_is_bounded() -> None:
    waiting = WaitingRequests()
    for number in range(1500):
        waiting.report(f"process-{number}", {"m": 1})
    assert waiting.add_to("m", Status()).requests_waiting == 1000


def test_a_status_of_a_later_version_is_accepted() -> None:
    assert Status.from_json({**asdict(Status(Phase.READY)), "more": 1}) == Status(Phase.READY)
