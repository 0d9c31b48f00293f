"""Memory of the engines' budget for jobs, where reserving it takes too long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmariner.platform.capacity import QuotaRule
from llmariner.standalone import jobs
from llmariner.standalone.jobs import EngineMemory

from .driver import processes
from .scripted_engines import MEMORY, scripted_settings


def test_what_took_too_long_reserves_nothing_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_answer = threading.Event()

    def rules(project_id: str) -> Sequence[QuotaRule]:
        assert may_answer.wait(60)
        return ()

    with processes(scripted_settings(tmp_path), quota_rules=rules) as (driver, serving):

        async def run() -> None:
            memory = EngineMemory(serving, asyncio.get_running_loop(), 1000)
            monkeypatch.setattr(jobs, "_CALL_SECONDS", 1.0)
            assert (
                await asyncio.to_thread(memory.reserve, "job-1", "proj_1", MEMORY) == "It waits for idle models to end."
            )
            monkeypatch.setattr(jobs, "_CALL_SECONDS", 60.0)
            may_answer.set()
            assert await asyncio.to_thread(memory.reserve, "job-2", "proj_1", MEMORY) == ""
            assert len(serving.claims()) == 1, "the first job may be gone by now"

        driver.run(run())
