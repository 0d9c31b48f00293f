"""The standalone adapter with a launcher that does not respond, and with repeated stop requests."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from llmariner.platform.serving import Phase
from llmariner.platform.serving.local_processes import engine

from .driver import processes
from .scripted_engines import model, scripted_settings
from .test_local_processes import gone, soon


def stop(pid: int | None) -> None:
    """Stop a process and its group, and wait until it is so: of two pending signals SIGTERM would come first."""
    assert pid is not None
    os.killpg(pid, signal.SIGSTOP)
    soon(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def test_a_hanging_launcher_is_terminated_and_the_next_wake_starts_another(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):
        driver.run(serving.launcher.start())
        hung = serving.launcher.pid
        assert hung is not None
        serving.launcher._fork_timeout = 0.3
        stop(hung)
        driver.wake("a")
        said = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a", seconds=10).message
        assert "did not answer" in said
        serving.launcher._fork_timeout = 30
        driver.ready("a")
        assert serving.launcher.pid != hung
        soon(lambda: gone(hung))


def test_a_launcher_that_hangs_at_its_start_is_terminated(tmp_path: Path) -> None:
    settings = scripted_settings(tmp_path)
    interpreter = settings.python
    interpreter.unlink()
    interpreter.write_text("#!/bin/sh\nexec sleep 600\n")
    interpreter.chmod(0o755)
    with processes(settings, model(tmp_path, "a")) as (driver, serving):
        serving.launcher._start_timeout = 0.3
        driver.wake("a")
        said = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a", seconds=10).message
        assert "did not answer" in said


def test_sleeping_with_a_hanging_launcher_is_bounded(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):
        driver.run(serving.launcher.start())
        serving.launcher._fork_timeout = 0.5
        stop(serving.launcher.pid)
        driver.wake("a")
        driver.run_loop_for(0.1)
        driver.run(asyncio.wait_for(serving.sleep("a"), 10))
        assert driver.status("a").phase is Phase.ASLEEP


def test_an_engine_is_terminated_without_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_STOP_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(engine, "_KILL_AFTER_SECONDS", 0.3)
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):
        driver.ready("a")
        pid = serving._engines["a"].pid
        assert pid is not None
        stop(serving.launcher.pid)
        driver.sleep("a")
        assert driver.status("a").phase is Phase.ASLEEP
        soon(lambda: gone(pid))
        os.kill(serving.launcher.pid or 0, signal.SIGKILL)  # its end would be waited for


def test_an_engine_with_repeated_stop_requests_can_be_restarted(tmp_path: Path) -> None:
    """Also if the first caller is cancelled meanwhile."""
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):
        first = driver.ready("a")
        pid = serving._engines["a"].pid
        assert pid is not None
        stop(pid)  # it takes its time to end

        async def several_times() -> None:
            sleeps = [asyncio.create_task(serving.sleep("a")) for _ in range(2)]
            await asyncio.sleep(0.2)
            sleeps.append(asyncio.create_task(serving.sleep("a")))
            await asyncio.sleep(0.2)
            sleeps[0].cancel()
            await asyncio.sleep(0.2)
            assert not gone(pid)
            assert (await serving.status("a")).phase is Phase.STOPPING, "its memory is not free yet"
            os.killpg(pid, signal.SIGCONT)
            await asyncio.gather(*sleeps, return_exceptions=True)

        driver.run(several_times())
        began = time.monotonic()
        driver.wait_until(lambda status: status.phase is Phase.ASLEEP, "a", seconds=15)
        assert gone(pid), time.monotonic() - began
        assert driver.ready("a").endpoint != first.endpoint
