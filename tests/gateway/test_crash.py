"""The platform is killed in the middle of a stream: recorded usage is preserved, and the request ends as interrupted."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from .caller import ConnectionLost
from .running_platform import Platform, eventually, running

PACE = 20
"""Milliseconds between tokens."""


async def stream_until_killed(platform: Platform, name: str) -> tuple[str, int]:
    """The request's id, and how many tokens the caller saw."""
    answer = await platform.caller.stream(name, max_tokens=100_000)
    await answer.until(b"data: {")
    until = time.monotonic() + 3
    while time.monotonic() < until:
        answer.body += await answer.chunk()
    platform.kill()
    with pytest.raises(ConnectionLost):
        await answer.until(b"data: [DONE]")
    answer.hang_up()
    return answer.headers["x-request-id"], answer.body.count(b'"content":" ')


@pytest.mark.quiet
def test_a_killed_platform_loses_at_most_the_usage_since_the_last_checkpoint(tmp_path: Path, database: Path) -> None:
    with running(tmp_path, database) as platform:
        name = platform.model("interrupted", "--token-interval", str(PACE))
        asyncio.run(platform.caller.chat(name, max_tokens=1))
        engine = platform.engine(name)
        request_id, seen = asyncio.run(stream_until_killed(platform, name))
        # The hang-up of a dead process reaches the engine too.
        eventually(lambda: engine.running == 0, seconds=2, what="the end of the engine's request")
        before = platform.context.ledger.request(request_id)
        assert before is not None
        assert before["outcome"] == "open"
        platform.start()
        row = platform.row(request_id)
        lost = (seen - row["completion_tokens"]) * PACE / 1000
        print(f"\n{seen} tokens seen, {row['completion_tokens']} kept: {lost:.2f} s lost")
        assert row["outcome"] == "interrupted"
        assert row["prompt_tokens"] == 3
        # A checkpoint a second, sent twice a second; half a second more for a busy machine.
        assert 0 <= lost <= 2
        assert asyncio.run(platform.caller.chat(name, max_tokens=1)).status == 200
