"""The standalone adapter with the real engine: vLLM forked from a preloaded parent or started directly, on a small model."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.platform.serving import EngineModel, Phase
from llmariner.platform.serving.local_processes.adapter import ProcessServing
from llmariner.platform.serving.local_processes.settings import ProcessSettings

from .driver import ServingDriver, processes
from .real_engine import BASE, TIMEOUT_SECONDS
from .test_local_processes import ports_of, unix_sockets_of

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def answer_of(driver: ServingDriver, endpoint: str | None) -> str:
    return driver.chat(BASE, endpoint, max_tokens=24)


def test_a_preloaded_launcher_wakes_the_model_repeatedly(
    warm: tuple[ServingDriver, ProcessServing],
) -> None:
    driver, serving = warm
    driver.run(serving.launcher.start())
    assert serving.launcher.warm, serving.launcher.reason
    driver.sleep(BASE)  # other tests may have left it awake
    seconds, before = [], len(driver.phases)
    for _ in range(2):
        began = time.monotonic()
        status = driver.ready(BASE)
        seconds.append(time.monotonic() - began)
        assert "Paris" in answer_of(driver, status.endpoint)
        # torch's collectives listen on ports of their own, which serve no requests.
        assert not any(map(answers_http, ports_of(serving._engines[BASE].pid or 0))), "any local user could ask it"
        folder = str(Path((status.endpoint or "").removeprefix("unix:")).parent)
        # vLLM's own sockets, between its processes, trust any client.
        assert {path.startswith(folder) for path in unix_sockets_of(serving._engines[BASE].pid or 0)} == {True}
        driver.sleep(BASE)
        assert driver.status(BASE).phase is Phase.ASLEEP
    print(f"\nwakes: {', '.join(f'{each:.1f} s' for each in seconds)}")
    reported = [phase for _, phase in driver.phases[before:]]
    assert reported == [Phase.STARTING, Phase.LOADING, Phase.READY, Phase.STOPPING, Phase.ASLEEP] * 2


def answers_http(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.settimeout(0.2)
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        return connection.recv(5).startswith(b"HTTP")
    return False


def test_an_adapter_is_served_by_its_bases_engine_with_other_answers(
    warm: tuple[ServingDriver, ProcessServing],
) -> None:
    driver, _ = warm
    driver.wake("ft:random")
    base = driver.wait_until(lambda status: status.phase is Phase.READY, BASE)
    status = driver.ready("ft:random")
    assert status.endpoint == base.endpoint
    plain = driver.chat(BASE, base.endpoint, max_tokens=12)
    tuned = driver.chat("ft:random", status.endpoint, max_tokens=12)
    assert tuned != plain


def test_a_killed_engine_is_detected_and_leaves_nothing_behind(warm: tuple[ServingDriver, ProcessServing]) -> None:
    driver, serving = warm
    driver.ready(BASE)
    pid = serving._engines[BASE].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    status = driver.wait_until(lambda status: status.phase is Phase.FAILED, BASE, seconds=10)
    print(f"\nnoticed after {time.monotonic() - began:.2f} s")
    assert "ended unexpectedly" in status.message
    # The kernel has signaled its core process, which is gone a moment later.
    while group_of(pid):
        assert time.monotonic() - began < 10
        time.sleep(0.1)


def group_of(leader: int) -> list[int]:
    """The processes of an engine: it leads a group of its own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def test_an_engine_that_rejects_its_arguments_reports_them(warm: tuple[ServingDriver, ProcessServing]) -> None:
    driver, _ = warm
    driver.wake("refused")
    status = driver.wait_until(lambda status: status.phase is Phase.FAILED, "refused")
    assert "no-such-argument" in status.message


def test_a_start_without_preloading_differs_only_in_time(
    warm: tuple[ServingDriver, ProcessServing], settings: ProcessSettings, models: list[EngineModel]
) -> None:
    driver, _ = warm
    expected = answer_of(driver, driver.ready(BASE).endpoint)
    driver.sleep(BASE)
    wakes: list[float] = []
    with processes(replace(settings, warm=False), *models, wakes=wakes) as (plain, serving):
        plain.timeout_seconds = TIMEOUT_SECONDS
        status = plain.ready(BASE)
        assert (serving.launcher.warm, serving.launcher.reason) == (False, "asked for")
        assert answer_of(plain, status.endpoint) == expected
        plain.sleep(BASE)
        reported = [phase for _, phase in plain.phases]
    print(f"\na plain start took {wakes[0]:.1f} s")
    assert reported == [Phase.STARTING, Phase.LOADING, Phase.READY, Phase.STOPPING, Phase.ASLEEP]
