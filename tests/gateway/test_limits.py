"""Limits of a key on the token path, and the errors when they are exhausted."""

from __future__ import annotations

import asyncio

import pytest

from llmariner.limits.rules import Subject

from .caller import Answer
from .running_platform import Platform, eventually, soon


@pytest.fixture(scope="module")
def model(narrow: Platform) -> str:
    name = narrow.model("limited", "--tokens", "2")
    asyncio.run(narrow.caller.chat(name, headers={"prefer": "wait=30"}))
    return name


def test_requests_over_the_limit_get_retry_after(narrow: Platform, model: str) -> None:
    caller = narrow.key("requests", limited=True)[1]

    async def scenario() -> list[Answer]:
        return [await caller.chat(model) for _ in range(8)]

    answers = asyncio.run(scenario())
    assert [answer.status for answer in answers] == [200] * 6 + [429] * 2
    reported = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
    assert reported == [5, 4, 3, 2, 1, 0, 0, 0]
    refused = answers[-1]
    error = refused.error()
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "requests per min (RPM): Limit 6" in error["message"]
    assert "POST /v1/limits" in error["message"]
    # The window slides: the first of the six was taken some seconds ago.
    assert 30 <= int(refused.headers["retry-after"]) <= 62
    assert 0 <= int(refused.headers["retry-after"]) - int(refused.headers["retry-after-ms"]) / 1000 <= 1
    assert refused.headers["x-ratelimit-limit-requests"] == "6"
    assert refused.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert refused.headers["x-request-id"].startswith("req_")


def test_tokens_over_the_limit_get_retry_after(narrow: Platform, model: str) -> None:
    caller = narrow.key("tokens", limited=True)[1]
    first = asyncio.run(caller.chat(model, max_tokens=850))
    assert first.status == 200
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 150
    # What was reserved and not used is there again: three tokens of prompt and all of the answer were.
    refused = asyncio.run(caller.chat(model, max_tokens=150))
    assert (refused.status, refused.error()["code"]) == (429, "rate_limit_exceeded")
    assert "tokens per min (TPM): Limit 1000" in refused.error()["message"]
    assert 50 <= int(refused.headers["retry-after"]) <= 62
    assert asyncio.run(caller.chat(model, max_tokens=2)).status == 200


def test_a_response_longer_than_the_limit_is_rejected_without_retry_after(narrow: Platform, model: str) -> None:
    refused = asyncio.run(narrow.key("too long", limited=True)[1].chat(model, max_tokens=2000))
    assert (refused.status, refused.error()["code"]) == (429, "rate_limit_exceeded")
    assert "Request too large" in refused.error()["message"]
    assert refused.headers["x-should-retry"] == "false"


def test_unused_reservations_are_returned(narrow: Platform, model: str) -> None:
    caller = narrow.key("reserved", limited=True)[1]

    async def scenario() -> list[Answer]:
        return [await caller.chat(model, max_tokens=800, x_script={"fail_status": 400}) for _ in range(4)]

    answers = asyncio.run(scenario())
    # Each had reserved nearly all that there is, and none has used any.
    assert [answer.status for answer in answers] == [400] * 4


def test_a_key_without_limits_is_unlimited(narrow: Platform, model: str) -> None:
    async def scenario() -> list[Answer]:
        return [await narrow.caller.chat(model) for _ in range(20)]

    answers = asyncio.run(scenario())
    assert [answer.status for answer in answers] == [200] * 20
    assert not any(name.startswith("x-ratelimit") for answer in answers for name in answer.headers)


def test_a_rejected_request_reaches_no_engine_and_no_ledger(narrow: Platform, model: str) -> None:
    caller = narrow.key("counted", limited=True)[1]

    async def scenario() -> list[int]:
        return [(await caller.chat(model)).status for _ in range(12)]

    tokens = narrow.engine(model).tokens
    served = asyncio.run(scenario()).count(200)
    assert served == 6
    assert narrow.engine(model).tokens - tokens == 2 * served


def test_concurrency_slots_are_held_by_running_requests(platform: Platform) -> None:
    model = platform.model("places", "--token-interval", "10")
    key_id, caller = platform.key("two at a time", limited=True)
    subject = Subject(platform.owner.organization_id, "key", key_id)
    platform.context.limits.put(None, subject, "*", {"concurrent_requests": 2})

    async def scenario() -> tuple[Answer, Answer]:
        streams = [await caller.stream(model, max_tokens=10_000) for _ in range(2)]
        for stream in streams:
            await stream.until(b'"content":" ')
        refused = await caller.chat(model)
        streams[0].hang_up()
        await soon(lambda: platform.engine(model).running == 1)
        after = await caller.chat(model, max_tokens=1)
        streams[1].hang_up()
        return refused, after

    refused, after = asyncio.run(scenario())
    assert (refused.status, refused.error()["code"]) == (429, "rate_limit_exceeded")
    assert "concurrent requests: Limit 2" in refused.error()["message"]
    assert after.status == 200


@pytest.mark.quiet
def test_a_changed_limit_applies_within_five_seconds(platform: Platform) -> None:
    model = platform.model("changing", "--tokens", "1")
    key_id, caller = platform.key("changing", limited=True)
    subject = Subject(platform.owner.organization_id, "key", key_id)
    limits = platform.context.limits
    limits.put(None, subject, "*", {"requests_per_day": 2})
    statuses = [asyncio.run(caller.chat(model)).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    limits.put(None, subject, "*", {"requests_per_day": 1000})
    assert eventually(lambda: asyncio.run(caller.chat(model)).status == 200, what="the wider limit") < 5
    limits.put(None, subject, "*", {"requests_per_day": 1})
    assert eventually(lambda: asyncio.run(caller.chat(model)).status == 429, what="the narrower limit") < 5


def test_a_limit_of_one_model_does_not_affect_others(platform: Platform) -> None:
    small, large = (platform.model(name, "--tokens", "1") for name in ("small", "large"))
    key_id, caller = platform.key("per model", limited=True)
    platform.context.limits.put(
        None, Subject(platform.owner.organization_id, "key", key_id), large, {"requests_per_day": 1}
    )
    statuses = [asyncio.run(caller.chat(name)).status for name in (large, large, small, small)]
    assert statuses == [200, 429, 200, 200]


def test_a_waiting_room_share_may_be_below_the_default(platform: Platform) -> None:
    model = platform.model("shared-room", "--token-interval", "10", capacity=1)
    caller = platform.key("little room", limited=True)[1]
    subject = Subject(platform.owner.organization_id, "project", platform.owner.project_id)
    limit = platform.context.limits.put(None, subject, "*", {"queue_share": 1})

    async def scenario() -> Answer:
        running = await caller.stream(model, max_tokens=10_000)
        await running.until(b'"content":" ')
        waiting = await caller.stream(model, max_tokens=1)
        await waiting.until(b": {")
        refused = await caller.chat(model)
        running.hang_up()
        await waiting.read()
        return refused

    try:
        refused = asyncio.run(scenario())
    finally:
        platform.context.limits.remove(None, subject.organization_id, limit.id)
    assert (refused.status, refused.error()["code"]) == (429, "waiting_room_full")


def test_a_request_rejected_after_its_limits_releases_its_slot(platform: Platform) -> None:
    key_id, caller = platform.key("one at a time", limited=True)
    subject = Subject(platform.owner.organization_id, "key", key_id)
    platform.context.limits.put(None, subject, "*", {"concurrent_requests": 1})

    async def scenario() -> list[int]:
        return [(await caller.chat("nobody-knows-it")).status for _ in range(4)]

    assert asyncio.run(scenario()) == [404] * 4
