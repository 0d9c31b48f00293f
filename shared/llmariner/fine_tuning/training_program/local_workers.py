"""Starts the workers of a job on one machine, and begins again with new ones where one ended.

It sets the variables that torchrun sets, and does without it: a launcher with torch takes as much memory as a small worker,
and with torch 2.13 workers that torchrun restarts often try to connect to the ones before them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

__all__ = ["run_workers"]

_RESTARTS = 3
"""How often all begin again after one ended for no reason of its own, before the job fails."""
_POLL_SECONDS = 0.1
_END_SECONDS = 5.0
"""For the others to notice that one ended, and to end with their own exit codes."""


def run_workers(number: int, *, final: Sequence[int]) -> int:
    """The exit code of a job with so many workers. `final`: exit codes of a worker after which none is started again."""
    code = 0
    for _ in range(1 + _RESTARTS):
        codes = _run_group(number)
        code = next((each for each in codes if each in final), next((each for each in codes if each), 0))
        if not code or code in final:
            break
    return code


def _run_group(number: int) -> list[int]:
    """The exit codes of workers, after all have ended."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(number),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": str(max(1, threads // number)),
    }
    command = [sys.executable, "-m", __package__ or ""]
    workers = [subprocess.Popen(command, env={**shared, "RANK": str(rank)}) for rank in range(number)]
    try:
        while not any(each.poll() for each in workers) and any(each.poll() is None for each in workers):
            time.sleep(_POLL_SECONDS)
        until = time.monotonic() + _END_SECONDS
        while any(each.poll() is None for each in workers) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
    finally:
        for each in workers:
            each.kill()
    return [each.wait() for each in workers]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
