"""Buffered request bodies are bounded in bytes, per gateway instance and per tenant."""

from __future__ import annotations

import asyncio

import pytest

from llmariner.errors import WaitingRoomFull
from llmariner.gateway.requests.body_budget import BodyBudget

from .caller import Answer, chat
from .running_platform import Platform, eventually

PATH = "/v1/chat/completions"


def large(model: str) -> dict[str, object]:
    return chat(model, user="x" * 1_400_000)


def test_waiting_requests_stay_within_the_budget(hurried: Platform) -> None:
    model = hurried.model("large-bodies", "--ready-after", "2", "--tokens", "1")
    tenants = [hurried.tenant(f"large-{index}") for index in range(3)]

    async def scenario() -> tuple[list[Answer], list[Answer]]:
        waiting: list[Answer] = []
        refused: list[Answer] = []
        for tenant, into in ((0, waiting), (0, waiting), (0, refused), (1, waiting), (2, refused)):
            answer = await tenants[tenant].open(PATH, large(model), headers={"prefer": "wait=30"})
            if into is refused:
                await answer.read()
            else:
                await asyncio.sleep(0.1)
            into.append(answer)
        small = await tenants[2].chat(model, headers={"prefer": "wait=30"})
        assert small.status == 200
        return [await answer.read() for answer in waiting], refused

    waiting, refused = asyncio.run(scenario())
    assert [answer.status for answer in waiting] == [200] * 3
    for answer in refused:
        error = answer.error()
        assert (answer.status, error["code"], error["type"]) == (429, "waiting_room_full", "rate_limit_error")
        assert int(answer.headers["retry-after"]) >= 1
    # All bytes were released.
    assert all(asyncio.run(tenants[0].call(PATH, large(model))).status == 200 for _ in range(4))


def test_a_declared_length_is_reserved_and_released_if_the_body_does_not_arrive(hurried: Platform) -> None:
    model = hurried.model("declared", "--tokens", "1")
    caller = hurried.tenant("declaring")
    length = {"content-length": "2000000"}

    async def scenario() -> tuple[Answer, Answer]:
        open_ = await caller.open(PATH, b"{", headers=length)
        await asyncio.sleep(0.3)
        refused = await caller.call(PATH, large(model))
        open_.hang_up()
        await asyncio.sleep(0.3)
        return refused, await caller.call(PATH, large(model))

    refused, taken = asyncio.run(scenario())
    assert (refused.status, refused.error()["code"], taken.status) == (429, "waiting_room_full", 200)


def test_tenants_that_declare_much_and_send_little_leave_budget_for_others(hurried: Platform) -> None:
    model = hurried.model("left", "--tokens", "1")
    first, second, third = (hurried.tenant(f"left-{index}") for index in range(3))

    async def scenario() -> list[int]:
        opened = []
        for caller, size in ((first, 2_000_000), (first, 1_000_000), (second, 2_000_000), (second, 1_000_000)):
            opened.append(await caller.open(PATH, b"{", headers={"content-length": str(size)}))
            await asyncio.sleep(0.1)
        answers = [await third.chat(model, user="x" * size) for size in (10, 100_000)]
        for each in opened:
            each.hang_up()
        await asyncio.sleep(0.1)
        return [answer.status for answer in answers]

    assert asyncio.run(scenario()) == [200, 200]


def test_a_body_without_a_declared_length_is_counted_as_it_arrives(hurried: Platform) -> None:
    model = hurried.model("undeclared", "--tokens", "1")
    caller = hurried.tenant("undeclaring")

    async def scenario() -> Answer:
        open_ = await caller.open(PATH, b"{", headers={"content-length": "2000000"})
        await asyncio.sleep(0.3)
        reader, writer = await asyncio.open_connection("127.0.0.1", hurried.port)
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {caller.secret}\r\n"
        writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        writer.write((b"%x\r\n%b\r\n" % (100_000, b" " * 100_000)) * 14 + b"0\r\n\r\n")
        answer = await Answer(reader, writer).read()
        open_.hang_up()
        await asyncio.sleep(0.05)
        return answer

    assert model
    answer = asyncio.run(scenario())
    assert (answer.status, answer.error()["code"]) == (429, "waiting_room_full")


def test_a_running_stream_holds_no_body(hurried: Platform) -> None:
    model = hurried.model("streaming-large", "--token-interval", "20")
    caller = hurried.tenant("streaming-large")

    async def scenario() -> list[int]:
        answers = []
        for _ in range(4):
            body = {**large(model), "stream": True, "max_tokens": 10_000}
            answers.append(await (await caller.open(PATH, body)).until(b"data: {"))
        for answer in answers:
            answer.hang_up()
        await asyncio.sleep(0.05)
        return [answer.status for answer in answers]

    assert asyncio.run(scenario()) == [200] * 4
    eventually(lambda: hurried.engine(model).running == 0)


def test_the_budget_tracks_only_tenants_with_reservations() -> None:
    budget = BodyBudget(10, 6)
    budget.reserve("a", 6)
    with pytest.raises(WaitingRoomFull):
        budget.reserve("a", 1)
    budget.reserve("b", 2)
    with pytest.raises(WaitingRoomFull):
        budget.reserve("b", 1)
    budget.reserve("c", 1)
    with pytest.raises(WaitingRoomFull):
        budget.reserve("d", 1)
    for tenant, size in (("a", 6), ("b", 2), ("c", 1)):
        budget.release(tenant, size)
    assert (budget.held, budget._held_by_tenant) == (0, {})
