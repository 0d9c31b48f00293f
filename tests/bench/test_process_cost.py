"""Process costs include the whole process tree and no other process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .process_cost import cpu_seconds, memory, tree

pytestmark = pytest.mark.quiet

BURN = "import time\nwhile time.process_time() < 0.2: pass\nprint('done', flush=True)\ninput()"
PARENT = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {BURN!r}]))"


def test_cpu_time_and_memory_include_child_processes() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        members = tree(process.pid)
        assert len(members) == 2
        assert 0.2 <= cpu_seconds(process.pid) < 1
        own, whole = memory(members[1]), memory(process.pid)
        assert 0 < own.pss <= own.rss < whole.rss
        process.communicate(b"\n")


def test_a_sleeping_process_has_no_cpu_time() -> None:
    with subprocess.Popen(["sleep", "30"]) as process:
        before = cpu_seconds(process.pid)
        sum(range(2_000_000))
        assert cpu_seconds(process.pid) - before < 0.005
        process.kill()
