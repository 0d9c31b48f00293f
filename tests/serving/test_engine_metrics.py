"""An engine with endless metrics does not delay the observation of other engines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from llmariner.http_client import Client
from llmariner.platform.serving.engine_metrics import EngineMetrics, read_metrics

COUNTS = b'vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_waiting{engine="0"} 1.0\n'
HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"


@contextlib.asynccontextmanager
async def telling(said: bytes, *, slowly: bool) -> AsyncIterator[str]:
    """The address of an engine that says this of itself, or sends it byte by byte."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD + said)
            await writer.drain()
            while slowly and not writer.is_closing():
                await asyncio.sleep(0.05)
                writer.write(b"#")
                await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("said", "slowly", "found"),
    [
        (COUNTS, False, EngineMetrics(running=2, waiting=1)),
        (COUNTS, True, None),
        (COUNTS + b"#" * (5 << 20), False, None),
        (COUNTS.replace(b"2.0", b"many"), False, None),
    ],
    ids=["counts", "without an end", "megabytes", "no number"],
)
def test_metrics_are_read_within_a_timeout_and_a_size_limit(
    said: bytes, slowly: bool, found: EngineMetrics | None
) -> None:
    async def scenario() -> EngineMetrics | None:
        async with telling(said, slowly=slowly) as address, asyncio.timeout(20):
            client = Client()
            seconds = 0.5 if slowly else 10.0
            reported = await read_metrics(client, address, timeout=seconds)
            assert not client.busy
            await asyncio.sleep(0.1)  # its engine hears of the end
            client.close()
            return reported

    began = time.monotonic()
    assert asyncio.run(scenario()) == found
    assert time.monotonic() - began < 15
