"""A thousand callers wait for one sleeping model: each gets an answer or an error, none starves, memory stays bounded."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

import pytest

from .caller import Caller
from .running_platform import Platform, resident

pytestmark = pytest.mark.quiet

MIB = 1 << 20


@dataclass
class Received:
    """What one caller received. `after`: seconds since it asked."""

    tenant: int
    status: int
    code: str
    streamed: bool
    done: bool
    after: float


async def ask(caller: Caller, name: str, tenant: int, number: int, began: float) -> Received:
    if number % 10 == 0:
        answer = await caller.chat(name, headers={"prefer": "wait=1"})
    elif number % 2:
        answer = await (await caller.stream(name)).read()
    else:
        answer = await caller.chat(name)
    streamed = answer.headers["content-type"].startswith("text/event-stream")
    code = "" if answer.status == 200 else answer.error()["code"]
    done = answer.body.endswith(b"data: [DONE]\n\n") if streamed else b'"usage"' in answer.body
    return Received(tenant, answer.status, code, streamed, done, time.monotonic() - began)


def test_a_thousand_waiting_requests_all_get_a_response(platform: Platform) -> None:
    # The load lasts longer than a thousand callers need to come, on a busy machine too.
    name = platform.model("thousand", "--ready-after", "8", "--tokens", "3", "--max-running", "32", capacity=32)
    tenants = [platform.tenant(f"thousand-{index}") for index in range(5)]
    before = peak = resident(platform.pid)

    async def scenario() -> list[Received]:
        nonlocal peak
        began = time.monotonic()
        tasks = []
        for number in range(1000):
            tasks.append(asyncio.create_task(ask(tenants[number % 5], name, number % 5, number, began)))
            if number % 50 == 0:
                await asyncio.sleep(0)
        pending = set(tasks)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=0.2)
            peak = max(peak, resident(platform.pid))
        return [task.result() for task in tasks]

    seen = asyncio.run(scenario())
    impatient = [one for index, one in enumerate(seen) if index % 10 == 0]
    patient = [one for index, one in enumerate(seen) if index % 10]
    assert {(one.status, one.code) for one in impatient} == {(503, "model_not_ready")}
    assert all(one.status == 200 and one.done for one in patient)
    assert len(platform.engines(name)) == 1
    engine = platform.engine(name)
    assert engine.tokens == 3 * len(patient)
    # No tenant is served long before another: their typical answers come at about the same time.
    typical = [statistics.median(one.after for one in patient if one.tenant == tenant) for tenant in range(5)]
    assert max(typical) < 1.5 * min(typical)
    print(f"\nplatform: {before / MIB:.0f} MiB before, {peak / MIB:.0f} MiB at most; medians {typical}")
    assert peak - before < 64 * MIB
