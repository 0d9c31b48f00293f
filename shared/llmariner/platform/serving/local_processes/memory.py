"""Memory use of processes and available memory of the machine, from /proc."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_bytes", "process_bytes", "process_tree", "process_tree_bytes"]


def available_bytes() -> int:
    """Bytes available without swapping (MemAvailable); 0 if unknown."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def process_tree_bytes(root: int) -> int:
    """Proportional set size of a process and its descendants in bytes."""
    return sum(process_bytes(pid) for pid in process_tree(root))


def process_tree(root: int) -> list[int]:
    """A process and its descendants."""
    found, pending = [root], [root]
    while pending:
        pid = pending.pop()
        for child in _children(pid):
            found.append(child)
            pending.append(child)
    return found


def _children(pid: int) -> list[int]:
    """The children of all threads of a process: each belongs to the thread that forked it."""
    found: list[int] = []
    try:
        threads = list(Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:  # it exits at the moment
        return found
    for file in threads:
        try:
            found += map(int, file.read_text().split())
        except OSError:
            continue
    return found


def process_bytes(pid: int) -> int:
    """Proportional set size of one process in bytes; 0 if it has exited."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
