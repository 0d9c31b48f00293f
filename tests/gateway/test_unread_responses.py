"""What the HTTP client of the token path keeps of responses that were not read to their end: nothing."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

from llmariner.http_client import Client

from .raw_engine import RawEngine, raw_engine
from .running_platform import soon


def test_a_response_that_nobody_reads_to_its_end_leaves_nothing_in_memory() -> None:
    """Before the garbage collector runs: it is rare where requests make no garbage for it."""

    async def scenario() -> int:
        async def reply(_: RawEngine, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n" + 200_000 * b"x")

        async with raw_engine(reply) as engine:
            client = Client()
            for number in range(21):
                response = await client.request(engine.origin, "POST", "/x", body=b"{}")
                await asyncio.sleep(0.005)
                response.close()
                del response
                await soon(lambda: engine.closed == engine.connections)
                if number == 0:
                    before = tracemalloc.get_traced_memory()[0]
            client.close()
            return tracemalloc.get_traced_memory()[0] - before

    gc.disable()
    tracemalloc.start()
    try:
        assert asyncio.run(scenario()) < 300_000
    finally:
        tracemalloc.stop()
        gc.enable()
