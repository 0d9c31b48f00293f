"""How many processor cores this process may use: those of its CPU affinity, and no more than its control groups allow."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cores_of_share", "cpu_quota", "own_groups", "usable_cores"]

_SELF = Path("/proc/self")
_ANY_NAME = "surrogateescape"
"""The name of another mount may have any bytes."""
_OCTAL = re.compile(r"\\([0-7]{3})")


def usable_cores() -> int:
    """At least one. A quota of a part of a core, such as a container has, counts as a whole one."""
    quota = cpu_quota()
    found = len(os.sched_getaffinity(0))
    return found if quota is None else max(1, min(found, math.ceil(quota)))


def cores_of_share(wanted: int, shares: int) -> int:
    """The cores of one of so many that share them: those that are wanted, as far as there are so many; 0: its part."""
    return min(wanted or max(1, usable_cores() // shares), len(os.sched_getaffinity(0)))


def cpu_quota(process: Path = _SELF) -> float | None:
    """The cores that the control groups of a process allow it, by time; None: as many as there are.

    `process`: its folder of /proc. Version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`), where the kernel has mounted
    them (man 7 cgroups). A group has no more than those above it.
    """
    quotas: list[float] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        groups = dict(_groups(process, "cpu"))
        for version, root, mounted in _mounts(process, "cpu"):
            parts = _inside(root, groups.get(version, "/"))
            quotas += _quotas(mounted, parts, version)
    return min(quotas, default=None)


def own_groups(controller: str, process: Path = _SELF) -> list[tuple[int, Path]]:
    """The version of each hierarchy that may have a controller, and the folder of the process's own group in it."""
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        groups = dict(_groups(process, controller))
        for version, root, mounted in _mounts(process, controller):
            if version in groups:
                found.append((version, mounted.joinpath(*_inside(root, groups[version]))))
    return found


def _groups(process: Path, controller: str) -> Iterator[tuple[int, str]]:
    """The version of each hierarchy that may have a controller, and the path of the process's group in it."""
    for line in (process / "cgroup").read_text(errors=_ANY_NAME).strip().split("\n"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield 2, path
        elif controller in controllers.split(","):
            yield 1, path


def _mounts(process: Path, controller: str) -> Iterator[tuple[int, str, Path]]:
    """The version, the group that is mounted, and where, of each such hierarchy."""
    for line in (process / "mountinfo").read_text(errors=_ANY_NAME).strip().split("\n"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        version = {"cgroup2": 2, "cgroup": 1}.get(kind)
        if version == 2 or (version == 1 and controller in options.split(",")):
            root, mounted = (_OCTAL.sub(lambda found: chr(int(found[1], 8)), each) for each in before.split()[3:5])
            yield version, root, Path(mounted)


def _inside(root: str, group: str) -> list[str]:
    """The names that lead from the group that is mounted to a group; none for one that is not inside."""
    inside = os.path.relpath(group, root)
    return [] if inside.split("/")[0] in (".", "..") else inside.split("/")


def _quotas(mounted: Path, parts: list[str], version: int) -> Iterator[float]:
    """Those of a group and of the groups above it, as far as they are mounted."""
    for depth in range(len(parts), -1, -1):
        with contextlib.suppress(OSError):
            said = _read(mounted.joinpath(*parts[:depth]), version)
            if said[0] not in ("max", "-1"):
                yield int(said[0]) / int(said[1])


def _read(folder: Path, version: int) -> list[str]:
    if version == 2:
        return (folder / "cpu.max").read_text().split()
    return [(folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")]
