"""The platform ends, by request or by force, and is there again; its engines never outlive it."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .standalone_platform import Platform

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PARIS = "What is the capital of France?"


def until_gone(platform: Platform, seconds: float) -> float:
    began = time.monotonic()
    while platform.processes():
        assert time.monotonic() - began < seconds, platform.processes()
        time.sleep(0.1)
    return time.monotonic() - began


def test_up_after_down_serves_within_seconds_with_the_same_key(platform: Platform) -> None:
    platform.chat(PARIS, max_tokens=1)
    key = platform.api_key
    began = time.monotonic()
    platform.down()
    down = time.monotonic() - began
    assert platform.processes() == []
    assert not (platform.home / "platform.json").exists()
    up = platform.up()
    restarted = time.monotonic()
    answer = platform.chat(PARIS)
    print(f"\ndown {down:.1f} s, up {up:.1f} s, first answer {time.monotonic() - restarted:.1f} s later")
    assert platform.api_key == key
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert up < 30


def test_a_killed_platform_leaves_no_engine_and_the_next_up_works(platform: Platform) -> None:
    platform.chat(PARIS, max_tokens=1)
    assert len(platform.processes()) >= 2
    os.kill(platform.pid, signal.SIGKILL)
    print(f"\nlauncher and engines were gone after {until_gone(platform, 30):.1f} s")
    up = platform.up()
    answer = platform.chat(PARIS)
    print(f"up again after {up:.1f} s")
    assert "Paris" in answer["choices"][0]["message"]["content"]


def test_a_second_down_reports_that_nothing_runs(platform: Platform) -> None:
    platform.down()
    done = platform.llma("down")
    assert (done.returncode, "not running" in done.stdout) == (0, True)
    platform.up()
