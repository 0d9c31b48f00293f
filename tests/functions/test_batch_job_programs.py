"""Programs in batch jobs: what becomes of one whose caller leaves while it is started."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmariner.errors import RateLimited
from llmariner.http.resources import batch_job_programs
from llmariner.http.resources.batch_job_programs import ProgramStreams
from llmariner.platform.jobs import ExecOutput


class Program:
    """A program without output; see `platform.jobs.Execution`."""

    exit_code = 0

    def __init__(self) -> None:
        self.is_closed = threading.Event()

    def read(self, seconds: float) -> ExecOutput | None:
        return None

    def close(self) -> None:
        self.is_closed.set()


def allow() -> None:
    """The caller may run it."""


def test_a_program_whose_caller_leaves_at_its_start_ends_and_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_job_programs, "_MAX_PROGRAMS", 1)
    begins, may_begin, program = threading.Event(), threading.Event(), Program()

    def begin() -> Program:
        begins.set()
        assert may_begin.wait(60)
        return program

    async def run() -> None:
        streams = ProgramStreams()
        starting = asyncio.create_task(streams.start(begin, allow, "org-a"))
        assert await asyncio.to_thread(begins.wait, 60)
        with pytest.raises(RateLimited):
            await streams.start(Program, allow, "org-a")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        may_begin.set()
        assert await asyncio.to_thread(program.is_closed.wait, 60)
        async with asyncio.timeout(60):
            while True:
                try:
                    events = await streams.start(Program, allow, "org-a")
                    break
                except RateLimited:  # its place is given back just after it was closed
                    await asyncio.sleep(0.01)
        assert [each async for each in events] == [b'data: {"type": "exit", "exit_code": 0}\n\n']

    asyncio.run(run())


def test_one_organization_leaves_places_for_the_programs_of_others() -> None:
    async def run() -> None:
        streams = ProgramStreams()
        held = [await streams.start(Program, allow, "org-a") for _ in range(8)]
        with pytest.raises(RateLimited, match="8 programs of your organization"):
            await streams.start(Program, allow, "org-a")
        others = [await streams.start(Program, allow, "org-b") for _ in range(8)]
        with pytest.raises(RateLimited, match="16 programs"):
            await streams.start(Program, allow, "org-c")
        for events in (*held, *others):
            assert [each async for each in events]

    asyncio.run(run())
