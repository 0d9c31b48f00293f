"""How much memory processes hold, and how much a machine can give."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_bytes", "process_bytes", "process_tree_bytes"]


def available_bytes() -> int:
    """Bytes that programs may take without swapping; 0 where the kernel does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def process_tree_bytes(root: int) -> int:
    """Bytes that a process and its descendants hold (proportional: shared pages count once among their users)."""
    return sum(process_bytes(pid) for pid in [root, *_descendants(root)])


def _descendants(root: int) -> list[int]:
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            found.append(child)
            pending.append(child)
    return found


def process_bytes(pid: int) -> int:
    """Bytes that one process holds, in the same measure; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
