"""A slow client applies backpressure to the engine; the platform buffers almost nothing."""

from __future__ import annotations

import asyncio
import time

from .caller import Answer
from .running_platform import EngineProcess, Platform, resident

MIB = 1 << 20
# An engine repeats the model's name in every event: with this one an event is half a kilobyte.
LONG = "long-" + "x" * 190
TOKENS = 125_000


def settled(engine: EngineProcess) -> int:
    """The engine's token count when it stops changing."""
    last, now = -1, engine.tokens
    deadline = time.monotonic() + 30
    while now != last:
        assert time.monotonic() < deadline, "the engine was not held back"
        time.sleep(0.5)
        last, now = now, engine.tokens
    return now


def test_a_stalled_client_applies_backpressure_to_the_engine(served: Platform) -> None:
    name = served.model(LONG)

    async def scenario() -> tuple[int, int]:
        answer = await served.caller.stream(name, max_tokens=10**6)
        await answer.until(b"data: {")
        engine = served.engine(name)
        made = await asyncio.to_thread(settled, engine)
        running = engine.running
        answer.hang_up()
        return made, running

    made, running = asyncio.run(scenario())
    # Half a kilobyte each: what the kernel gives the sockets between engine, platform and caller, twenty megabytes or more.
    assert made < 200_000
    assert running == 1


def test_memory_stays_flat_while_fifty_megabytes_go_to_a_slow_reader(platform: Platform) -> None:
    name = platform.model(LONG)
    asyncio.run(platform.caller.chat(name))
    before = peak = resident(platform.pid)

    async def scenario() -> tuple[Answer, int, bytes]:
        nonlocal peak
        answer = await platform.caller.stream(name, max_tokens=TOKENS)
        await answer.head()
        size, tail, paused = 0, b"", 0
        while part := await answer.chunk():
            size, tail = size + len(part), (tail + part)[-200:]
            if size // (8 * MIB) > paused:
                paused = size // (8 * MIB)
                await asyncio.sleep(0.3)
                peak = max(peak, resident(platform.pid))
        answer.hang_up()
        return answer, size, tail

    answer, size, tail = asyncio.run(scenario())
    print(f"\n{size / MIB:.0f} MiB; platform: {before / MIB:.1f} MiB before, {peak / MIB:.1f} MiB at most")
    assert size > 50 * 10**6
    assert tail.endswith(b"data: [DONE]\n\n")
    assert peak - before < 20 * MIB
    row = platform.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["completion_tokens"]) == ("succeeded", TOKENS)
