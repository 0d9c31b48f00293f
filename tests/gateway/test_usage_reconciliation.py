"""What an engine reports of a request whose caller disconnected, and how the gateway uses it."""

from __future__ import annotations

import asyncio

import pytest

from llmariner.gateway.control_plane.port import Key
from llmariner.gateway.metering.meter import MeteredRequest
from llmariner.gateway.metering.usage_reconciliation import UsageReconciliation
from llmariner.http_client import Client

from .raw_engine import RawEngine, raw_engine

KEY = Key("key_1", "proj_1", "org_1", "user_1", frozenset(), None, False)
COUNTS = b'{"prompt_tokens": 7, "completion_tokens": 3}'
NOTHING = b'{"error": {"message": "no request of this id ended here"}}'


def settled(status: int, body: bytes) -> MeteredRequest:
    metered = MeteredRequest("req_1", KEY, "m", "chat_completions")
    metered.usage = b"seen"

    async def reply(engine: RawEngine, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d Said\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    async def scenario() -> None:
        closed = asyncio.Event()
        client = Client()
        async with raw_engine(reply) as engine:
            UsageReconciliation(client).reconcile(metered, "req_1", engine.origin, closed.set)
            await closed.wait()
            assert engine.requests[0].startswith(b"GET /llmariner/usage/req_1 ")
        client.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
    return metered


@pytest.mark.parametrize(
    ("status", "body", "usage", "untold"),
    [
        (200, COUNTS, COUNTS, False),
        (404, NOTHING, b"seen", False),
        (404, b'{"detail":"Not Found"}', b"seen", True),
        (503, b'{"error": {"message": "this request is still running"}}', b"seen", True),
        # More than the plugin ever sends: it is discarded.
        (200, COUNTS + b" " * 200_000, b"seen", False),
    ],
)
def test_usage_reported_after_a_disconnect_is_used_if_valid(
    status: int, body: bytes, usage: bytes, untold: bool
) -> None:
    metered = settled(status, body)
    assert (metered.usage, metered.usage_unavailable) == (usage, untold)
