"""The processes of a tree, while some of them exit."""

from __future__ import annotations

import subprocess

from llmariner.platform.serving.local_processes.memory import process_tree


def test_processes_that_exit_meanwhile_are_left_out() -> None:
    command = "while :; do /bin/true & /bin/true & /bin/true; wait; done"
    with subprocess.Popen(["/bin/sh", "-c", command]) as shell:
        try:
            for _ in range(4000):  # one in 300 meets a process between two reads of its folder
                assert process_tree(shell.pid)[0] == shell.pid
        finally:
            shell.kill()
