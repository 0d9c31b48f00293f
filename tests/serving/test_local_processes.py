"""The standalone adapter: memory budget, timeouts, and engines that exit unexpectedly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.serving import Phase
from llmariner.platform.serving.local_processes.launcher_client import kill_orphans
from llmariner.platform.serving.local_processes.sockets import EngineSockets

from .driver import CHAT, ServingDriver, processes
from .scripted_engines import MEMORY, model, processes_with, scripted_settings


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # An exited child that is not reaped yet counts as gone.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def soon(fact: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stream_of(driver: ServingDriver, endpoint: str | None) -> Coroutine[Any, Any, None]:
    """A request that lasts until it is cancelled."""

    async def streaming() -> None:
        assert endpoint is not None
        body = b'{"messages":[{"role":"user","content":"a"}],"stream":true,"max_tokens":1000000}'
        response = await driver.client.request(endpoint, "POST", "/v1/chat/completions", body=body)
        try:
            while await response.chunk():
                pass
        finally:
            response.close()

    return streaming()


def test_phases_are_reported_to_subscribers_in_order(tmp_path: Path) -> None:
    wakes: list[float] = []
    with processes(scripted_settings(tmp_path), model(tmp_path, "a", "--ready-after", "0.5"), wakes=wakes) as (
        driver,
        _,
    ):
        driver.ready("a")
        driver.sleep("a")
        reported = [phase for _, phase in driver.phases]
    assert reported == [Phase.STARTING, Phase.LOADING, Phase.READY, Phase.STOPPING, Phase.ASLEEP]
    assert 0.5 <= wakes[0] < 10


def test_the_least_recently_used_engine_is_stopped_for_another(tmp_path: Path) -> None:
    models = [model(tmp_path, name) for name in "abc"]
    with processes(scripted_settings(tmp_path, engines=2), *models) as (driver, _):
        first = driver.ready("a")
        driver.run_loop_for(0.5)
        driver.ready("b")
        driver.chat("a", first.endpoint)
        driver.run_loop_for(2.5)  # its counts are read every two seconds
        driver.ready("c")
        assert {name: driver.status(name).phase for name in "abc"} == {
            "a": Phase.READY,
            "b": Phase.ASLEEP,
            "c": Phase.READY,
        }


def test_a_busy_engine_is_not_stopped_and_the_memory_error_names_it(tmp_path: Path) -> None:
    models = [model(tmp_path, "a", "--token-interval", "10"), model(tmp_path, "b")]
    with processes(scripted_settings(tmp_path, engines=1), *models) as (driver, _):
        endpoint = driver.ready("a").endpoint

        async def meanwhile() -> tuple[str, Phase]:
            stream = asyncio.create_task(stream_of(driver, endpoint))
            await asyncio.sleep(0.3)
            await driver.serving.wake("b")
            await asyncio.sleep(1.5)
            status = await driver.serving.status("b")
            other = (await driver.serving.status("a")).phase
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)
            return f"{status.phase}: {status.message}", other

        said, other = driver.run(meanwhile())
        assert said == "queued: waiting for memory that busy models or jobs hold"
        assert other is Phase.READY
        driver.wait_until(lambda status: status.phase is Phase.READY, "b")
        assert driver.status("a").phase is Phase.ASLEEP


def test_other_work_gets_the_memory_of_idle_models_and_a_model_waits_for_it(tmp_path: Path) -> None:
    models = [model(tmp_path, "a", "--token-interval", "10"), model(tmp_path, "b")]
    with processes(scripted_settings(tmp_path, engines=1), *models) as (driver, serving):
        budget, endpoint = serving.budget, driver.ready("a").endpoint
        assert "all engines and jobs have" in driver.run(serving.reserve_memory("job", budget + 1))

        async def meanwhile() -> str:
            stream = asyncio.create_task(stream_of(driver, endpoint))
            await asyncio.sleep(0.3)
            reason = await serving.reserve_memory("job", budget // 2)
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)
            return reason

        assert "that busy models or other jobs hold" in driver.run(meanwhile())
        assert driver.status("a").phase is Phase.READY
        deadline = time.monotonic() + 30
        while driver.run(serving.reserve_memory("job", budget // 2)):
            assert time.monotonic() < deadline
            driver.run_loop_for(0.2)
        assert driver.status("a").phase is Phase.ASLEEP
        driver.wake("b")
        driver.run_loop_for(1.0)
        waits = driver.status("b")
        assert (waits.phase, waits.message) == (Phase.QUEUED, "waiting for memory that busy models or jobs hold")
        for _ in range(2):
            driver.run(serving.release_memory("job"))
        driver.wait_until(lambda status: status.phase is Phase.READY, "b")


def test_an_always_on_model_is_not_stopped_for_another(tmp_path: Path) -> None:
    models = [model(tmp_path, "a", keep_awake=True), model(tmp_path, "b")]
    with processes(scripted_settings(tmp_path, engines=1), *models) as (driver, _):
        driver.ready("a")
        driver.wake("b")
        driver.run_loop_for(1.5)
        assert (driver.status("a").phase, driver.status("b").phase) == (Phase.READY, Phase.QUEUED)


def test_a_model_over_the_memory_budget_fails_with_figures_and_a_remedy(tmp_path: Path) -> None:
    settings = scripted_settings(tmp_path, engines=0.5)
    with processes(settings, model(tmp_path, "a")) as (driver, _):
        driver.wake("a")
        status = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a")
    assert f"{MEMORY >> 20} MiB" in status.message
    assert f"{settings.budget >> 20} MiB" in status.message
    assert "LLMARINER_MEMORY_GIB" in status.message


def test_a_model_that_does_not_fit_beside_the_launcher_fails(tmp_path: Path) -> None:
    settings = replace(scripted_settings(tmp_path), budget=MEMORY + (1 << 20))
    with processes(settings, model(tmp_path, "a")) as (driver, serving):
        driver.run(serving.launcher.start())
        driver.wake("a")
        status = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a", seconds=5)
    assert "LLMARINER_MEMORY_GIB" in status.message


def test_an_idle_model_sleeps_and_a_busy_or_always_on_one_does_not(tmp_path: Path) -> None:
    models = [model(tmp_path, "idle"), model(tmp_path, "busy", "--token-interval", "10")]
    models.append(model(tmp_path, "kept", keep_awake=True))
    with processes(scripted_settings(tmp_path, idle_seconds=1), *models) as (driver, _):
        for name in ("idle", "kept", "busy"):
            endpoint = driver.ready(name).endpoint

        async def a_while() -> None:
            stream = asyncio.create_task(stream_of(driver, endpoint))
            await asyncio.sleep(5)
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)

        driver.run(a_while())
        phases = {name: driver.status(name).phase for name in ("idle", "busy", "kept")}
        assert phases == {"idle": Phase.ASLEEP, "busy": Phase.READY, "kept": Phase.READY}
        driver.wait_until(lambda status: status.phase is Phase.ASLEEP, "busy")


def test_failed_starts_back_off_and_have_a_reason(tmp_path: Path) -> None:
    def failed(driver: ServingDriver) -> float:
        began = time.monotonic()
        driver.wake("a")
        status = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a")
        assert "the weights could not be loaded" in status.message
        return time.monotonic() - began

    with processes(scripted_settings(tmp_path), model(tmp_path, "a", "--fail-load")) as (driver, _):
        first, second = failed(driver), failed(driver)
        driver.wake("a")
        driver.run_loop_for(0.3)
        status = driver.status("a")
        assert status.phase is Phase.QUEUED
        assert "2 starts failed" in status.message
        assert "the weights could not be loaded" in status.message
        third = failed(driver)
        fourth = failed(driver)
    assert third > 1.5  # and the three tenths that had passed
    assert fourth > 4
    assert max(first, second) < third


def test_a_killed_engine_is_detected_and_restarted_on_demand(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):
        first = driver.ready("a")
        os.kill(serving._engines["a"].pid or 0, signal.SIGKILL)
        status = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a", seconds=3)
        assert "ended unexpectedly" in status.message
        assert driver.ready("a").endpoint != first.endpoint


@pytest.mark.quiet
def test_a_model_that_failed_and_recovered_sleeps_normally(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):
        for _ in range(3):
            driver.ready("a")
            os.kill(serving._engines["a"].pid or 0, signal.SIGKILL)
            driver.wait_until(lambda status: status.phase is Phase.FAILED, "a", seconds=3)
        driver.ready("a")
        driver.sleep("a")
        status = driver.status("a")
        assert (status.phase, status.message) == (Phase.ASLEEP, "")
        # What failed before that no longer counts.
        began = time.monotonic()
        driver.ready("a")
        assert time.monotonic() - began < 2


def test_a_killed_launcher_terminates_its_engines_and_is_restarted(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):
        driver.ready("a")
        engine, launcher = serving._engines["a"].pid, serving.launcher.pid
        assert engine is not None
        assert launcher is not None
        os.kill(launcher, signal.SIGKILL)
        driver.wait_until(lambda status: status.phase is Phase.FAILED, "a", seconds=3)
        soon(lambda: gone(engine))
        driver.ready("a")
        assert serving.launcher.pid != launcher


@pytest.mark.parametrize("pause", [0, 0.005, 0.02, 0.1, 0.4])
def test_a_model_put_to_sleep_during_its_start_leaves_no_process(tmp_path: Path, pause: float) -> None:
    name = f"drowsy-{pause}"
    with processes(scripted_settings(tmp_path), model(tmp_path, name, "--ready-after", "0.2")) as (
        driver,
        serving,
    ):
        driver.run(serving.launcher.start())
        driver.wake(name)
        driver.run_loop_for(pause)
        began = time.monotonic()
        driver.sleep(name)
        assert time.monotonic() - began < 5, "it had to be killed"
        assert driver.status(name).phase is Phase.ASLEEP
        soon(lambda: not processes_with(f"--model {name} "), 3)
        # Nor does it stand in the way of the next start, however soon that comes.
        for _ in range(3):
            driver.wake(name)
            driver.run_loop_for(pause)
            driver.sleep(name)
        endpoint = driver.ready(name).endpoint
        assert driver.chat(name, endpoint)
        soon(lambda: len(processes_with(f"--model {name} ")) == 1, 3)


def test_without_vllm_the_launcher_starts_engines_without_preloading_and_says_why(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path, warm=True), model(tmp_path, "a")) as (driver, serving):

        async def warm_up() -> None:
            serving.warm_up()

        driver.run(warm_up())
        driver.ready("a")
        assert serving.launcher.warm is False
        assert "vllm" in (serving.launcher.reason or "")


def test_only_the_owner_can_connect_to_an_engine(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a"), model(tmp_path, "b")) as (driver, serving):
        endpoints = [driver.ready(name).endpoint or "" for name in "ab"]
        paths = [Path(endpoint.removeprefix("unix:")) for endpoint in endpoints]
        assert len({*paths}) == 2
        folders = {path.parent for path in paths} | {path.parent.parent for path in paths}
        assert len(folders) == 3, "a folder for each engine, in one of the platform's"
        for folder in folders:
            assert (stat.S_IMODE(folder.stat().st_mode), folder.stat().st_uid) == (0o700, os.getuid())
        assert all(path.is_socket() for path in paths)
        assert [ports_of(engine.pid or 0) for engine in serving._engines.values()] == [set(), set()]
    assert not any(folder.exists() for folder in folders)


def inodes_of(pid: int) -> set[str]:
    """What a process and those of its group have open, as links name it."""
    group, inodes = os.getpgid(pid), set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(folder.name)) == group:
                inodes |= {os.readlink(link) for link in (folder / "fd").iterdir()}
    return inodes


def ports_of(pid: int) -> set[int]:
    """The TCP ports that a process or one of its group listens on."""
    inodes = inodes_of(pid)
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listening = "0A"
    return {
        int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == listening and f"socket:[{row[9]}]" in inodes
    }


def unix_sockets_of(pid: int) -> set[str]:
    """The paths of the Unix sockets that a process or one of its group has open."""
    inodes = inodes_of(pid)
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {row[7] for row in rows if len(row) > 7 and f"socket:[{row[6]}]" in inodes}


@pytest.mark.parametrize("name", ["engines", "long" * 40])
def test_engine_sockets_are_in_a_private_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(mode=0o755)
    sockets, others = EngineSockets(tmp_path / name), EngineSockets(tmp_path / name)
    paths = [sockets.new(), sockets.new(), others.new()]
    assert len(set(paths)) == 3
    for path in paths:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    others.close()
    assert paths[0].parent.exists()
    sockets.close()
    assert not any(path.parent.exists() for path in paths)


def test_a_hanging_engine_is_terminated_and_the_next_wake_starts_another(tmp_path: Path) -> None:
    settings = replace(scripted_settings(tmp_path), unresponsive_seconds=0.5)
    with processes(settings, model(tmp_path, "a")) as (driver, serving):
        driver.ready("a")
        pid = serving._engines["a"].pid
        assert pid is not None
        os.killpg(pid, signal.SIGSTOP)
        said = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a", seconds=30)
        assert "hung" in said.message
        assert gone(pid)
        driver.wake("a")
        driver.wait_until(lambda status: status.phase is Phase.READY, "a")
        assert serving._engines["a"].pid != pid


def test_an_engine_works_if_its_wake_cannot_be_recorded(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):

        async def record_wake(_: str, seconds: float) -> None:
            raise RuntimeError("the database is away")

        serving._record_wake = record_wake
        driver.ready("a")
        driver.run_loop_for(0.3)
        assert driver.status("a").phase is Phase.READY


def test_an_engines_temporary_files_are_in_its_folder_and_deleted_with_it(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):
        endpoint = driver.ready("a").endpoint
        assert endpoint is not None
        folder = Path(endpoint.removeprefix("unix:")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        environment = Path(f"/proc/{serving._engines['a'].pid}/environ").read_bytes().split(b"\0")
        assert f"TMPDIR={folder}".encode() in environment
        (folder / "left-behind").touch()
        driver.sleep("a")
        assert not folder.exists()


def test_closing_terminates_every_process(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a"), model(tmp_path, "b")) as (driver, serving):
        driver.ready("a")
        driver.wake("b")
        driver.run_loop_for(0.1)
        pids = [serving.launcher.pid, *(engine.pid for engine in serving._engines.values())]
    assert all(gone(pid) for pid in pids if pid)


OWNER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from serving.driver import processes
from serving.scripted_engines import scripted_settings, model
folder = Path({folder!r})
models = model(folder, "a"), model(folder, "b", "--ready-after", "60")
with processes(scripted_settings(folder), *models) as (driver, serving):
    driver.ready("a")
    driver.wake("b")
    driver.wait_until(lambda status: serving._engines["b"].pid, "b")
    print(serving.launcher.pid, *(engine.pid for engine in serving._engines.values()), flush=True)
    driver.run_loop_for(60)
"""


def test_a_killed_owner_leaves_no_process(tmp_path: Path) -> None:
    program = OWNER.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 3
        owner.kill()
    soon(lambda: all(gone(pid) for pid in pids))


def test_processes_of_an_earlier_platform_of_the_same_folder_are_terminated_and_no_others(tmp_path: Path) -> None:
    homes = [tmp_path / "mine", tmp_path / "mine-too"]
    command = ["sleep", "60"]
    mine, other = (subprocess.Popen(command, env={"LLMARINER_ENGINES_OF": str(home)}) for home in homes)
    try:
        assert kill_orphans(homes[0]) == 1
        assert mine.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        assert kill_orphans(homes[0]) == 0
    finally:
        for process in (mine, other):
            process.kill()
            process.wait(5)


def test_tokens_and_memory_of_an_engine_are_reported(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a", "--tokens", "4")) as (driver, _):
        endpoint = driver.ready("a").endpoint
        answer = driver.ask(endpoint, "/v1/chat/completions", CHAT)
        driver.run_loop_for(2.5)
        status = driver.status("a")
    assert answer["usage"]["completion_tokens"] == 4
    assert status.generation_tokens == 4
    assert status.memory_bytes > 1 << 20
