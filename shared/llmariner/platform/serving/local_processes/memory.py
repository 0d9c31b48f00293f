"""How much memory processes hold, and how much a machine can give."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available", "held", "held_alone"]


def available() -> int:
    """Bytes that programs may take without swapping; 0 where the kernel does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def held(root: int) -> int:
    """Bytes that a process and its descendants hold (proportional: shared pages count once among their users)."""
    return sum(held_alone(pid) for pid in [root, *_descendants(root)])


def _descendants(root: int) -> list[int]:
    found, open_ = [], [root]
    while open_:
        pid = open_.pop()
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            found.append(child)
            open_.append(child)
    return found


def held_alone(pid: int) -> int:
    """Bytes that one process holds, in the same measure; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
