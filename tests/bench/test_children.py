"""The benchmark terminates every process that it started, including those that outlive their parent."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from .children import StartError, free_port, running, spawn, stop
from .process_cost import PROC, tree
from .target import Target

# Exits at once on a signal and leaves a child that keeps sleeping.
PARENT = "import subprocess; subprocess.run(['sleep', '60'])"


def test_processes_that_outlive_their_parent_are_terminated(tmp_path: Path) -> None:
    process = spawn([sys.executable, "-c", PARENT], {}, tmp_path / "log")
    while len(members := tree(process.pid)) < 2:
        time.sleep(0.01)
    stop(process)
    assert process.returncode is not None
    state = PROC / str(members[1]) / "stat"
    deadline = time.monotonic() + 5
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.01)


def test_the_log_of_a_process_that_exits_before_it_listens_is_quoted(tmp_path: Path) -> None:
    target = Target("broken", [sys.executable, "-c", "raise SystemExit('no such option')"], free_port())
    with pytest.raises(StartError, match="ended with 1: no such option"), running(target, tmp_path):
        pass
