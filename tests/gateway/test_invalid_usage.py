"""Invalid usage of an engine: metering continues, connections stay in order, and other requests' records are complete."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.platform.events.tables import events

from .caller import chat
from .running_platform import Platform, eventually, soon

ODD = [
    "",
    "null",
    '"lots"',
    "[]",
    '{"prompt_tokens":' + "9" * 5000 + ',"completion_tokens":1}',
    '{"prompt_tokens":3,"completion_tokens":9223372036854775808}',
    '{"prompt_tokens":-5,"completion_tokens":3}',
    '{"prompt_tokens":3,"completion_tokens":-9223372036854775808}',
    '{"prompt_tokens":"many","completion_tokens":3}',
    '{"prompt_tokens":3.5,"completion_tokens":1e9}',
    '{"prompt_tokens":{"a":{"b":[1]}},"completion_tokens":3}',
    '{"prompt_tokens":3,"completion_tokens":900000}',
    '{"prompt_tokens":3,"completion_tokens":3,"completion_tokens":-1}',
]
TRUE = [
    '{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":null}',
    '{"prompt_tokens":9,"prompt_tokens":3,"completion_tokens":null,"completion_tokens":4}',
    '{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":7777}}',
]


@pytest.fixture(scope="module")
def model(platform: Platform) -> str:
    name = platform.model("odd", "--tokens", "4")
    asyncio.run(platform.caller.chat(name))
    return name


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("usage", [*ODD, *TRUE], ids=lambda usage: usage[:60])
def test_invalid_usage_is_charged_within_bounds_and_affects_no_other_request(
    platform: Platform, model: str, usage: str, stream: bool
) -> None:
    body = json.dumps(chat(model, stream=stream, max_tokens=4, x_script={"usage": usage})).encode()
    good = chat(model, max_tokens=2)

    async def on_one_connection() -> tuple[str, str]:
        """The odd request, then a good one on the same connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", platform.port)
        ids = []
        for sent in (body, json.dumps(good).encode()):
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {platform.caller.secret}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(sent)}\r\n\r\n"
            )
            writer.write(head.encode() + sent)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            headers = dict(line.split(b": ", 1) for line in answer.lower().split(b"\r\n")[1:-2])
            ids.append(headers[b"x-request-id"].decode())
            if b"content-length" in headers:
                await reader.readexactly(int(headers[b"content-length"]))
            else:
                await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        return ids[0], ids[1]

    odd_id, good_id = asyncio.run(on_one_connection())
    row = platform.row(odd_id)
    assert row["outcome"] == "succeeded"
    expected = (3, 4) if usage in TRUE else (len(body), 4)
    assert (row["prompt_tokens"], row["completion_tokens"]) == expected
    assert row["cached_tokens"] <= row["prompt_tokens"]
    assert platform.row(good_id)["completion_tokens"] == 2
    assert reported(platform, odd_id) == (usage not in TRUE)


@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnect_without_reported_usage_is_charged_by_its_bounds(
    platform: Platform, model: str, stream: bool
) -> None:
    body = chat(model, stream=stream, max_tokens=50, x_script={"usage": "", "token_interval_ms": 100})
    engine = platform.engine(model)

    async def scenario() -> None:
        before = engine.tokens
        answer = await platform.caller.open("/v1/chat/completions", body)
        await soon(lambda: engine.tokens > before)
        answer.hang_up()

    began = time.time()
    asyncio.run(scenario())

    def cancelled() -> list[dict[str, Any]]:
        return [row for row in platform.ledger(model) if row["admitted_at"] >= began]

    eventually(cancelled, seconds=30, what="the closing")
    [row] = cancelled()
    assert row["outcome"] == "cancelled"
    assert (row["prompt_tokens"], row["completion_tokens"]) == (len(json.dumps(body)), 50)
    assert reported(platform, row["request_id"])


def reported(platform: Platform, request_id: str) -> bool:
    """Whether an event says that the request was charged by its bounds."""
    with platform.context.database.read() as session:
        query = select(events.c.type).where(events.c.subject == f"requests/{request_id}")
        return [row.type for row in session.rows(query)] == ["ai.llmariner.usage.uncounted.v1"]


def test_requests_charged_by_their_bounds_are_counted_in_a_metric(platform: Platform, model: str) -> None:
    def count() -> int:
        name = "llmariner_uncounted_requests_total{"
        rows = [row for row in platform.metrics().splitlines() if row.startswith(name) and '"odd"' in row]
        return sum(int(row.rpartition(" ")[2]) for row in rows)

    before = count()
    asyncio.run(platform.caller.chat(model, x_script={"usage": "-1"}))
    eventually(lambda: count() == before + 1, what="the count")


def test_a_checkpoint_counts_all_choices_of_a_stream(platform: Platform) -> None:
    name = platform.model("choices", "--token-interval", "20")
    asyncio.run(platform.caller.chat(name, max_tokens=1))

    async def whole() -> str:
        answer = await (await platform.caller.stream(name, n=4, max_tokens=40)).read()
        return answer.headers["x-request-id"]

    row = platform.row(asyncio.run(whole()))
    assert (row["prompt_tokens"], row["completion_tokens"]) == (3, 160)
    history = platform.context.ledger.history(row["request_id"])
    # Each answer alone never has more than 40.
    assert max(state["completion_tokens"] for state in history if state["kind"] == "checkpoint") > 40
