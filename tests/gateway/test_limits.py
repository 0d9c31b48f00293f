"""What a key may use in a minute, in requests and in tokens, and what it is told when that is used up."""

from __future__ import annotations

import asyncio

import pytest

from .caller import Answer
from .running import Platform


@pytest.fixture(scope="module")
def model(narrow: Platform) -> str:
    name = narrow.model("limited", "--tokens", "2")
    asyncio.run(narrow.caller.chat(name, headers={"prefer": "wait=30"}))
    return name


def test_requests_over_the_limit_are_told_when_there_is_room_again(narrow: Platform, model: str) -> None:
    caller = narrow.key("requests", limited=True)[1]

    async def scenario() -> list[Answer]:
        return [await caller.chat(model) for _ in range(8)]

    answers = asyncio.run(scenario())
    statuses = [answer.status for answer in answers]
    # Six a minute, and one more every ten seconds: on a slow machine the seventh may find room.
    assert statuses[:6] == [200] * 6
    assert statuses[-1] == 429
    refused = answers[-1]
    error = refused.error()
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "requests" in error["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert 0 <= int(refused.headers["retry-after"]) - int(refused.headers["retry-after-ms"]) / 1000 <= 1
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-request-id"].startswith("req_")


def test_tokens_over_the_limit_are_told_when_there_is_room_again(narrow: Platform, model: str) -> None:
    caller = narrow.key("tokens", limited=True)[1]
    first = asyncio.run(caller.chat(model, max_tokens=2000))
    assert first.status == 200
    refused = asyncio.run(caller.chat(model))
    assert (refused.status, refused.error()["code"]) == (429, "rate_limit_exceeded")
    assert "tokens" in refused.error()["message"]
    # A thousand a minute, overdrawn by a thousand: a minute until there is room.
    assert 50 <= int(refused.headers["retry-after"]) <= 62


def test_a_key_without_limits_has_none(narrow: Platform, model: str) -> None:
    async def scenario() -> list[Answer]:
        return [await narrow.caller.chat(model) for _ in range(20)]

    answers = asyncio.run(scenario())
    assert [answer.status for answer in answers] == [200] * 20
    assert not any(name.startswith("x-ratelimit") for answer in answers for name in answer.headers)


def test_what_is_refused_by_a_limit_reaches_no_engine_and_no_ledger(narrow: Platform, model: str) -> None:
    caller = narrow.key("counted", limited=True)[1]

    async def scenario() -> list[int]:
        return [(await caller.chat(model)).status for _ in range(12)]

    tokens = narrow.engine(model).tokens
    served = asyncio.run(scenario()).count(200)
    assert served < 12
    assert narrow.engine(model).tokens - tokens == 2 * served
