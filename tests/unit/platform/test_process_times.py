"""Processor time of workloads, with processes that really use some."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from llmariner.platform.jobs.local_processes.job_run import wait_for
from llmariner.platform.process_times import ProcessTimes, process_seconds, tree_seconds

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n"


def start(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", program])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_of_a_short_workload_counts_though_nobody_looked_while_it_ran() -> None:
    times = ProcessTimes()
    process = start(CHILD)
    wait_for(process, "bj-1", times)
    assert process.returncode == 0
    assert times.take()["bj-1"] >= 0.28, "a child that it waited for, in whole ticks"
    assert times.take() == {}, "once"


def test_what_runs_is_taken_in_parts_that_add_up_to_the_kernels_sum() -> None:
    times, parts = ProcessTimes(), list[float]()
    process = start(BURN + "import sys; sys.stdin.read()")
    times.begin("m", process.pid)
    with process:
        while sum(parts) < 0.25:
            parts.append(times.take().get("m", 0.0))
            time.sleep(0.02)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        whole = process_seconds(process.pid)
        times.end("m", whole)
    assert sum(parts) + times.take().get("m", 0.0) == pytest.approx(whole)
    times.end("m", 0.0)
    assert times.take() == {}


def test_a_process_that_is_gone_has_used_nothing_more() -> None:
    times = ProcessTimes()
    process = start("")
    times.begin("m", process.pid)
    process.wait()
    assert (tree_seconds(process.pid), times.take()) == (0.0, {})
    times.end("m", 0.5)
    times.begin("m", os.getpid())
    assert times.take()["m"] >= 0.5, "what was left, and what the next one used"
