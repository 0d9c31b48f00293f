"""How much processor time the workloads of this machine use: the kernel's own sums, of a process and all below it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from llmariner.platform.serving.local_processes.memory import process_tree

__all__ = ["ProcessTimes", "process_seconds", "tree_seconds"]

_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessTimes:
    """The processor time of workloads since it was last taken. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, tuple[int, float]] = {}
        self._left: dict[str, float] = {}

    def begin(self, workload_id: str, pid: int) -> None:
        """A workload's first process runs; it is not waited for before `end`."""
        with self._lock:
            self._running[workload_id] = (pid, 0.0)

    def end(self, workload_id: str, seconds: float) -> None:
        """Its processes have ended after so much time in all, as the kernel says. Idempotent."""
        with self._lock:
            _, known = self._running.pop(workload_id, (0, seconds))
            # A process whose parent was killed is in nobody's sum: what was seen of it before counts.
            self._left[workload_id] = self._left.get(workload_id, 0.0) + max(0.0, seconds - known)

    def take(self) -> dict[str, float]:
        """Seconds by workload since the last call, of those that used some."""
        with self._lock:
            taken, self._left = self._left, {}
            running = dict(self._running)
        for workload_id, (pid, known) in running.items():
            total = tree_seconds(pid)
            with self._lock:
                if self._running.get(workload_id) == (pid, known) and total > known:
                    self._running[workload_id] = (pid, total)
                    taken[workload_id] = taken.get(workload_id, 0.0) + total - known
        return {workload_id: seconds for workload_id, seconds in taken.items() if seconds > 0}


def tree_seconds(root: int) -> float:
    """Of a process and its descendants, also of those that have ended.

    A parent is read before its children, so that none counts twice.
    """
    return sum(map(process_seconds, process_tree(root)))


def process_seconds(pid: int) -> float:
    """Of one process, also one that has ended and is not waited for, and of the descendants that were; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS  # utime, stime, cutime, cstime
