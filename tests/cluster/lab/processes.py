"""The processes that are not pods: each in the cluster's network and control group, with a log and a pid file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from .places import Lab
from .wait import LabError

__all__ = ["alive", "control_groups", "running", "start", "stop"]

_GROUPS = Path("/sys/fs/cgroup")
_END_SECONDS = 4
# Kept, since Python warns of a child that is forgotten while it runs, as these are meant to.
_children: list[subprocess.Popen[bytes]] = []


def control_groups(lab: Lab) -> list[Path]:
    """The cluster's folder in each hierarchy of control groups (version 1)."""
    names = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
    return [_GROUPS / name / lab.name for name in names if (_GROUPS / name).is_dir()]


def start(lab: Lab, name: str, *command: object, environment: Mapping[str, str] | None = None) -> None:
    """Start a process that outlives this one, unless it runs already."""
    if alive(lab, name):
        return
    lab.logs.mkdir(parents=True, exist_ok=True)
    # The shell moves itself into the control groups, enters the network, and becomes the program: one pid throughout.
    joins = "".join(f"echo $$ > {group}/control-plane/cgroup.procs; " for group in control_groups(lab))
    script = joins + f'exec nsenter --net={lab.namespace} -- "$@"'
    with (lab.logs / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            ["sh", "-ec", script, name, *(str(part) for part in command)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=lab.folder,
            env={**os.environ, **(environment or {})},
        )
    _children.append(child)
    pids = lab.folder / "pids"
    pids.mkdir(exist_ok=True)
    (pids / name).write_text(f"{child.pid} {_began(child.pid)}")
    time.sleep(0.05)
    if child.poll() is not None:
        raise LabError(f"{name} ended at once with {child.returncode}; see {lab.logs / name}.log")


def running(lab: Lab) -> dict[str, int]:
    """The names and pids of the processes that are alive."""
    names = [file.name for file in sorted((lab.folder / "pids").glob("*"))]
    return {name: pid for name in names if (pid := alive(lab, name))}


def alive(lab: Lab, name: str) -> int | None:
    """The pid of a process that was started by this name and still is that process."""
    try:
        pid, began = (lab.folder / "pids" / name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _began(int(pid)) == began else None


def stop(lab: Lab, *names: str) -> None:
    """End processes in this order, each by its pid: politely, then for good."""
    for name in names:
        pid = alive(lab, name)
        for kind in (signal.SIGTERM, signal.SIGKILL):
            if pid is None or _began(pid) == "":
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, kind)
            limit = time.monotonic() + _END_SECONDS
            while alive(lab, name) and time.monotonic() < limit:
                _reap(pid)
                time.sleep(0.05)
        (lab.folder / "pids" / name).unlink(missing_ok=True)


def _began(pid: int) -> str:
    """When a process began, in clock ticks since boot; "" when there is none or it is only waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
