"""A control group of a job's own: the kernel counts its processes together, and holds them to its memory and its cores.

There is one where the platform may make it below its own group (man 7 cgroups): as root with version 1; with version 2 where
its service manager delegates a part of the tree to it (`Delegate=yes` and `DelegateSubgroup=`), or a user's part is the
user's. A group of version 2 that has processes gives its children no controllers, hence the group above is asked, too, if it
is the platform's. Elsewhere a job has no group, and its supervisor measures its processes one by one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmariner.platform.jobs.local_processes.job_folder import JobFolder, write_file
from llmariner.platform.processors import own_groups

__all__ = ["ControlGroup", "make_control_group", "remove_control_group"]

_SELF = Path("/proc/self")
_PREFIX = "llmariner-"
_NOTE = "control_group.json"
_PERIOD_MICROSECONDS = 100_000
_END_SECONDS = 5.0
"""How long the last processes of a group may take to be gone after they were killed."""
_FULL_BYTES = 4 << 20
"""What may be left in a group that is full: the kernel counts pages in batches."""
_DELEGATED = ("trusted.delegate", "user.delegate")
"""Attributes of a group that systemd has delegated."""


@dataclass(frozen=True)
class ControlGroup:
    """`memory` and `cpu`: its folders by what they limit, which version 2 has in one."""

    version: int
    memory: Path
    cpu: Path

    @property
    def folders(self) -> tuple[str, ...]:
        """Those that a process enters."""
        return tuple(dict.fromkeys((str(self.memory), str(self.cpu))))

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the kernel has ended a process of it because all together needed more than they may.

        It also counts those that it ends where the machine, or a group above, has no memory left: they may be innocent.
        """
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in (self.memory / name).read_text().splitlines())
            if int(counts.get("oom_kill", "0")) == 0:
                return False
            return int(counts.get("oom", "0")) > 0 if self.version == 2 else self._was_full()
        return False

    def _was_full(self) -> bool:
        """Whether a group of version 1 had as much as it may, which counts no failures since Linux 6.13."""
        for counted in ("memory", "memory.memsw"):
            with contextlib.suppress(OSError, ValueError):
                limit, most = (
                    (self.memory / f"{counted}.{each}_in_bytes").read_text() for each in ("limit", "max_usage")
                )
                if int(most) >= int(limit) - _FULL_BYTES:
                    return True
        return False


def make_control_group(
    folder: JobFolder,
    memory_bytes: int,
    cores: int,
    *,
    process: Path = _SELF,
    make: Callable[[Path], None] = Path.mkdir,
) -> ControlGroup | None:
    """The group of the job in a folder, which notes it; None where this process may make none.

    `process`: whose group it is below, as a folder of /proc. `make` makes the folder of a group with the kernel's files.
    """
    remove_control_group(folder)
    name = f"{_PREFIX}{folder.path.name}-{os.getpid()}"
    memory, cpu = dict(own_groups("memory", process)), dict(own_groups("cpu", process))
    candidates = [ControlGroup(1, memory[1] / name, cpu[1] / name)] if 1 in memory and 1 in cpu else []
    if not candidates and 2 in memory:
        parents = [memory[2], memory[2].parent] if _is_given(memory[2].parent) else [memory[2]]
        candidates = [ControlGroup(2, parent / name, parent / name) for parent in parents]
    for group in candidates:
        write_file(folder.path / _NOTE, json.dumps(group.folders))  # before it is there: it must not be forgotten
        try:
            _make(group, memory_bytes, cores, make)
        except OSError:
            remove_control_group(folder)
        else:
            return group
    return None


def remove_control_group(folder: JobFolder) -> None:
    """Remove the group that a folder notes, whose processes have ended or are about to. Idempotent."""
    try:
        noted = [Path(each) for each in json.loads((folder.path / _NOTE).read_text())]
    except (OSError, ValueError, TypeError):
        return
    deadline = time.monotonic() + _END_SECONDS
    for path in noted:
        while path.name.startswith(_PREFIX) and path.is_dir():
            try:
                path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    return  # the note stays for the next one who looks
                time.sleep(0.05)
    (folder.path / _NOTE).unlink(missing_ok=True)


def _make(group: ControlGroup, memory_bytes: int, cores: int, make: Callable[[Path], None]) -> None:
    """Make the folders of a group and set its limits. OSError where one of them is not to be had."""
    if group.version == 2:
        _write(group.memory.parent / "cgroup.subtree_control", "+memory +cpu")
    for each in group.folders:
        make(Path(each))
    quota = cores * _PERIOD_MICROSECONDS
    if group.version == 2:
        _write(group.memory / "memory.max", str(memory_bytes))
        _write(group.memory / "memory.oom.group", "1")
        _write(group.cpu / "cpu.max", f"{quota} {_PERIOD_MICROSECONDS}")
    else:
        _write(group.memory / "memory.limit_in_bytes", str(memory_bytes))
        _write(group.cpu / "cpu.cfs_period_us", str(_PERIOD_MICROSECONDS))
        with contextlib.suppress(OSError):  # refused where the platform's own group has less: then that holds
            _write(group.cpu / "cpu.cfs_quota_us", str(quota))
    with contextlib.suppress(OSError):  # a kernel without swap accounting has neither
        name, most = ("memory.swap.max", "0") if group.version == 2 else ("memory.memsw.limit_in_bytes", memory_bytes)
        _write(group.memory / name, str(most))


def _write(path: Path, text: str) -> None:
    """Write to a file of the kernel's, which is there or not."""
    with open(os.open(path, os.O_WRONLY), "w") as file:
        file.write(text)


def _is_given(folder: Path) -> bool:
    """Whether a group is the platform's to divide: its service manager says so, or it is its user's."""
    with contextlib.suppress(OSError):
        if os.geteuid() and folder.stat().st_uid == os.geteuid():
            return True
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            return os.getxattr(folder, name) == b"1"
    return False
