"""Followers of the output of batch jobs: what they get, what they cost, and when they are let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from llmariner.errors import NotFound, PermissionDenied, RateLimited
from llmariner.http.resources import batch_job_output
from llmariner.http.resources.batch_job_output import OutputWatches
from llmariner.platform.jobs import LogPart


class Outputs:
    """Outputs of jobs that a test writes; see `JobOutputs`."""

    def __init__(self) -> None:
        self.written = b""
        self.has_ended = False
        self.is_deleted = False
        self.reads = 0
        self.looks = 0

    def output(self, job_id: str, start: int) -> LogPart:
        self.reads += 1
        data = self.written[start : start + 4]
        return LogPart(data, start, start + len(data))

    def output_has_ended(self, project_id: str, job_id: str) -> bool:
        self.looks += 1
        if self.is_deleted:
            raise NotFound("No such batch job.")
        return self.has_ended


@pytest.fixture
def outputs() -> Outputs:
    return Outputs()


@pytest.fixture
def watches(outputs: Outputs, monkeypatch: pytest.MonkeyPatch) -> OutputWatches:
    monkeypatch.setattr(batch_job_output, "_LOOK_SECONDS", 0.01)
    return OutputWatches(lambda: outputs)


def allow() -> None:
    """The caller may read."""


async def collect(watches: OutputWatches, start: int = 0, allowed: Callable[[], None] = allow) -> bytes:
    return b"".join([part async for part in watches.follow("proj_1", "bj-1", start, allowed)])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - other threads change what it looks at
            await asyncio.sleep(0.01)


def test_followers_share_one_watch_and_get_all(watches: OutputWatches, outputs: Outputs) -> None:
    async def run() -> None:
        outputs.written = b"step 1\n"
        followers = [asyncio.create_task(collect(watches, start)) for start in (0, 5, 0, 0, 0)]
        await until(lambda: outputs.looks > 5)
        reads, looks = outputs.reads, outputs.looks
        await until(lambda: outputs.looks > looks + 50)
        assert outputs.reads - reads <= 50 + 30, "those that wait don't read"
        outputs.written += b"step 2\n"
        outputs.has_ended = True
        async with asyncio.timeout(60):
            found = await asyncio.gather(*followers)
        assert found == [b"step 1\nstep 2\n", b"1\nstep 2\n", *[b"step 1\nstep 2\n"] * 3]
        assert await collect(watches, 7) == b"step 2\n"

    asyncio.run(run())


def test_who_waits_for_later_bytes_delays_nobody(
    watches: OutputWatches, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_job_output, "_CHECK_SECONDS", 1000.0)

    async def run() -> None:
        outputs.written = b"step 1\n"
        early = asyncio.create_task(collect(watches, 1_000_000))
        await until(lambda: outputs.looks > 3)
        parts = watches.follow("proj_1", "bj-1", 0, allow)
        async with asyncio.timeout(60):
            assert await anext(parts) + await anext(parts) == b"step 1\n"
            following = asyncio.ensure_future(anext(parts))
            looks = outputs.looks
            await until(lambda: outputs.looks > looks + 3)
            outputs.written += b"step 2\n"
            assert await following == b"step"
            outputs.has_ended = True
            assert (await early, b"".join([part async for part in parts])) == (b"", b" 2\n")

    asyncio.run(run())


def test_a_deleted_job_and_a_lost_right_end_a_follower(
    watches: OutputWatches, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionDenied("You lost the right.")

    async def run() -> None:
        outputs.written = b"step 1\n"
        follower = asyncio.create_task(collect(watches))
        await until(lambda: outputs.looks > 3)
        outputs.is_deleted = True
        async with asyncio.timeout(60):
            assert await follower == b"step 1\n"
        outputs.is_deleted = False
        monkeypatch.setattr(batch_job_output, "_CHECK_SECONDS", 0.01)
        async with asyncio.timeout(60):
            assert (await collect(watches, 0, refuse)).startswith(b"step"), "it ended, though the job has not"

    asyncio.run(run())


def test_followers_are_limited_and_leave_nothing(
    watches: OutputWatches, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.http.followers._MAX_FOLLOWERS_OF_PROJECT", 2)

    async def run() -> None:
        followers = [asyncio.create_task(collect(watches)) for _ in range(2)]
        await until(lambda: outputs.looks > 3)
        with pytest.raises(RateLimited):
            watches.check_room("proj_1")
        watches.check_room("proj_2")
        monkeypatch.setattr("llmariner.http.followers._MAX_FOLLOWERS", 2)
        with pytest.raises(RateLimited):
            watches.check_room("proj_2")
        for each in followers:
            each.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        watches.check_room("proj_1")
        looks = outputs.looks
        await asyncio.sleep(0.1)
        assert outputs.looks <= looks + 1, "nobody watches any more"

    asyncio.run(run())


def test_followers_that_come_at_once_are_limited_too(
    watches: OutputWatches, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.http.followers._MAX_FOLLOWERS_OF_PROJECT", 2)

    async def run() -> None:
        outputs.has_ended = True
        for _ in range(2):
            watches.check_room("proj_1")  # its response has not begun
        with pytest.raises(RateLimited):
            watches.check_room("proj_1")
        await collect(watches)
        watches.check_room("proj_1")
        monkeypatch.setattr("llmariner.http.followers._BEGIN_SECONDS", -1.0)
        watches._places._coming.clear()
        for _ in range(3):  # callers that disconnected before their responses began
            watches.check_room("proj_1")

    asyncio.run(run())
