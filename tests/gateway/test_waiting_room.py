"""The waiting room keeps its contract (docs/waiting-room.md): what a client sees while a model wakes."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llmariner.models.model import ModelConfig

from .caller import Answer, Caller, chat
from .running_platform import EngineProcess, Platform, eventually, soon

PATH = "/v1/chat/completions"
FACTS = {"phase", "progress", "estimate_seconds"}


@pytest.fixture(scope="module")
def unwoken(platform: Platform) -> str:
    return platform.model("unwoken")


def healthy(engine: EngineProcess) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{engine.port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.quiet
def test_a_stream_opens_at_once_and_reports_progress(platform: Platform) -> None:
    name = platform.model("waking", "--ready-after", "1.2", "--tokens", "3")

    async def scenario() -> tuple[float, Answer]:
        began = time.monotonic()
        answer = await platform.caller.stream(name)
        await answer.until(b"\n\n")
        opened = time.monotonic() - began
        return opened, await answer.read()

    opened, answer = asyncio.run(scenario())
    assert opened < 1
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    comments = answer.comments()
    assert len(comments) >= 3
    assert all(comment.keys() >= FACTS for comment in comments)
    assert "starting" in {comment["phase"] for comment in comments}
    progress = [comment["progress"] for comment in comments]
    assert progress == sorted(progress)
    assert progress[-1] > progress[0]
    assert all(comment["waiting"] >= 1 for comment in comments)
    events = answer.events()
    assert (len(events), events[-1]) == (1 + 3 + 1, "[DONE]")
    # Every comment comes before the first event, and none of it looks like data to an SDK.
    assert answer.body.rfind(b"\n\n: {") < answer.body.find(b"data: ")
    row = platform.row(answer.headers["x-request-id"])
    assert 0.5 < row["waited_seconds"] < 10
    assert 0.5 < row["wake_seconds"] <= row["waited_seconds"]
    assert row["queued_seconds"] < 0.5


@pytest.mark.quiet
def test_a_request_waits_its_preferred_time_and_then_gets_the_progress(platform: Platform) -> None:
    name = platform.model("slow-to-wake", "--ready-after", "4")
    began = time.monotonic()
    answer = asyncio.run(platform.caller.chat(name, headers={"prefer": "respond-async, wait=1"}))
    assert 1 <= time.monotonic() - began < 3
    error = answer.error()
    assert (answer.status, error["code"], error["param"]) == (503, "model_not_ready", "model")
    assert error.keys() >= FACTS
    assert error["phase"] == "starting"
    assert 0 < error["progress"] < 1
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    row = platform.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["status"], row["completion_tokens"]) == ("failed", 503, 0)


def test_a_stream_that_timed_out_ends_with_an_error_event(platform: Platform) -> None:
    name = platform.model("too-slow", "--ready-after", "4")

    async def scenario() -> Answer:
        return await (await platform.caller.stream(name, headers={"prefer": "wait=1"})).read()

    answer = asyncio.run(scenario())
    (event,) = answer.events()
    assert event["error"]["code"] == "model_not_ready"
    assert event["error"].keys() >= FACTS


@pytest.mark.quiet
def test_a_request_that_does_not_wait_wakes_the_model(platform: Platform) -> None:
    name = platform.model("nudged", "--ready-after", "0.5")
    began = time.monotonic()
    reported = asyncio.run(platform.caller.chat(name, headers={"prefer": "wait=0"}))
    assert time.monotonic() - began < 1
    assert (reported.status, reported.error()["code"]) == (503, "model_not_ready")
    eventually(lambda: platform.engines(name) and healthy(platform.engine(name)), what="the load")
    assert asyncio.run(platform.caller.chat(name, headers={"prefer": "wait=2"})).status == 200
    assert len(platform.engines(name)) == 1


@pytest.mark.parametrize("wait", ["soon", "-1", "1.5", ""])
def test_an_invalid_wait_preference_is_rejected(platform: Platform, unwoken: str, wait: str) -> None:
    answer = asyncio.run(platform.caller.chat(unwoken, headers={"prefer": f"wait={wait}"}))
    assert (answer.status, answer.error()["param"]) == (400, "Prefer")
    assert platform.engines(unwoken) == []


def test_a_model_without_wake_on_request_stays_asleep(platform: Platform) -> None:
    name = platform.model("by-hand")
    platform.context.registry.configure(name, lambda _: ModelConfig(on_demand=False), project_id=None)
    refused = asyncio.run(platform.caller.chat(name))
    assert (refused.status, refused.error()["code"]) == (400, "model_not_active")
    assert f"POST /v1/models/{name}:activate" in refused.error()["message"]
    assert platform.engines(name) == []
    assert asyncio.run(platform.caller.call(f"/v1/models/{name}:activate", {})).status == 200
    assert asyncio.run(platform.caller.chat(name)).status == 200


def test_the_load_continues_without_waiting_requests(platform: Platform) -> None:
    name = platform.model("abandoned", "--ready-after", "1")

    async def scenario() -> None:
        for _ in range(3):
            answer = await platform.caller.stream(name)
            await answer.until(b": {")
            answer.hang_up()

    asyncio.run(scenario())
    eventually(lambda: bool(platform.engines(name)) and healthy(platform.engine(name)), what="the load")
    assert asyncio.run(platform.caller.chat(name)).status == 200
    assert len(platform.engines(name)) == 1


def test_a_failed_load_is_reported_to_every_waiting_request_once(platform: Platform) -> None:
    name = platform.model("broken", "--ready-after", "0.7", "--fail-load")

    async def scenario() -> tuple[list[Answer], list[Answer]]:
        streams = [await platform.caller.stream(name) for _ in range(4)]
        whole = [await platform.caller.open(PATH, chat(name)) for _ in range(4)]
        return [await answer.read() for answer in streams], [await answer.read() for answer in whole]

    streams, whole = asyncio.run(scenario())
    assert len(platform.engines(name)) == 1
    for answer in whole:
        error = answer.error()
        assert (answer.status, error["code"], error["phase"]) == (503, "model_not_ready", "failed")
        assert "the weights could not be loaded" in error["message"]
    for answer in streams:
        (event,) = answer.events()
        assert "the weights could not be loaded" in event["error"]["message"]
    # A later request tries again, and is served when the cause is gone.
    platform.script(name)
    assert asyncio.run(platform.caller.chat(name)).status == 200


def test_the_waiting_room_is_bounded_per_tenant_and_per_model(narrow: Platform) -> None:
    name = narrow.model("crowded", "--ready-after", "3", "--tokens", "2")
    tenants = [narrow.tenant(f"crowd-{index}") for index in range(3)]

    async def scenario() -> tuple[Answer, Answer, list[Answer]]:
        inside = [await tenants[0].stream(name, headers={"prefer": "wait=30"}) for _ in range(3)]
        for answer in inside:
            await answer.until(b": {")
        fourth = await tenants[0].chat(name)
        inside += [await tenants[1].stream(name, headers={"prefer": "wait=30"}) for _ in range(3)]
        for answer in inside[3:]:
            await answer.until(b": {")
        seventh = await tenants[2].chat(name)
        return fourth, seventh, [await answer.read() for answer in inside]

    fourth, seventh, inside = asyncio.run(scenario())
    for answer in (fourth, seventh):
        error = answer.error()
        assert (answer.status, error["code"], error["type"]) == (429, "waiting_room_full", "rate_limit_error")
        assert int(answer.headers["retry-after"]) >= 1
    assert [answer.events()[-1] for answer in inside] == ["[DONE]"] * 6


@pytest.mark.quiet
def test_the_configured_default_wait_applies(narrow: Platform) -> None:
    name = narrow.model("unhurried", "--ready-after", "3")
    began = time.monotonic()
    answer = asyncio.run(narrow.caller.chat(name))
    assert (answer.status, answer.error()["code"]) == (503, "model_not_ready")
    assert 1 <= time.monotonic() - began < 2.5


def test_requests_are_fifo_within_a_tenant_and_round_robin_among_tenants(platform: Platform) -> None:
    name = platform.model("queue", "--token-interval", "20", "--tokens", "5", capacity=1)
    one, two = platform.tenant("turn-1"), platform.tenant("turn-2")
    order: list[str] = []

    async def waiting(caller: Caller, label: str) -> asyncio.Task[None]:
        answer = await caller.stream(name)
        await answer.until(b": {")

        async def served() -> None:
            await answer.until(b"data: {")
            order.append(label)
            await answer.read()

        return asyncio.create_task(served())

    async def scenario() -> None:
        blocker = await platform.caller.stream(name, max_tokens=10_000)
        await blocker.until(b"data: {")
        tasks = [await waiting(one, f"1.{index}") for index in range(4)]
        tasks += [await waiting(two, f"2.{index}") for index in range(2)]
        blocker.hang_up()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert order == ["1.0", "2.0", "1.1", "2.1", "1.2", "1.3"]


@contextmanager
def watched(platform: Platform, name: str) -> Iterator[list[tuple[int, int]]]:
    """(running, waiting) as the engine itself counts them, every few milliseconds while the block lasts."""
    seen: list[tuple[int, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            if platform.engines(name) and healthy(engine := platform.engine(name)):
                seen.append((engine.running, engine.waiting))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_waiting_requests_are_admitted_by_engine_capacity_and_not_all_at_once(platform: Platform) -> None:
    arguments = ("--ready-after", "1", "--tokens", "10", "--token-interval", "20", "--max-running", "4")
    name = platform.model("herd", *arguments, capacity=4)

    async def scenario() -> list[Answer]:
        answers = [await platform.caller.stream(name) for _ in range(40)]
        await soon(lambda: f'llmariner_requests_waiting{{gen_ai_request_model="{name}"}} 40' in platform.metrics())
        return list(await asyncio.gather(*(answer.read() for answer in answers)))

    with watched(platform, name) as seen:
        answers = asyncio.run(scenario())
    assert [answer.events()[-1] for answer in answers] == ["[DONE]"] * 40
    assert len(seen) > 20
    assert max(running for running, _ in seen) == 4
    assert max(waiting for _, waiting in seen) == 0
