"""The cluster's ground: a network namespace with a link to this machine, and its control groups."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from .places import Lab
from .processes import control_groups
from .wait import LabError, run

__all__ = ["make", "remove"]

_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_WATCHERS = 1024


def make(lab: Lab) -> None:
    """Make what isn't there. The host reaches the node, pods and services by routes over the link."""
    _make_groups(lab)
    _raise_watchers(lab)
    if lab.namespace.exists():
        return
    run("ip", "netns", "add", lab.name)
    run("ip", "link", "add", lab.name, "type", "veth", "peer", "name", "eth0", "netns", lab.name)
    run("ip", "address", "add", f"{lab.host_address}/30", "dev", lab.name)
    run("ip", "link", "set", lab.name, "up")
    for command in (
        ("address", "add", f"{lab.address}/30", "dev", "eth0"),
        ("link", "set", "lo", "up"),
        ("link", "set", "eth0", "up"),
        # Without a default route connect() to a service's address fails before it can be rewritten.
        ("route", "add", "default", "via", lab.host_address),
    ):
        run("nsenter", f"--net={lab.namespace}", "--", "ip", *command)
    for name in ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"):
        run("nsenter", f"--net={lab.namespace}", "--", "sysctl", "-qw", name)
    for network in (lab.pods, lab.services):
        run("ip", "route", "add", network, "via", lab.address)


def remove(lab: Lab) -> None:
    """Take it all away again; whatever still runs in the control groups is ended, by pid."""
    for group in [*control_groups(lab), Path("/sys/fs/cgroup/unified") / lab.name]:
        _empty(group)
    if lab.namespace.exists():
        run("ip", "netns", "delete", lab.name)
    with contextlib.suppress(LabError):
        run("ip", "link", "delete", lab.name)
    before = lab.folder / "inotify-before"
    if before.exists():
        _INOTIFY.write_text(before.read_text())


def _make_groups(lab: Lab) -> None:
    for group in control_groups(lab):
        for folder in (group, group / "control-plane"):
            folder.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems") if group.parent.name == "cpuset" else ():
                (folder / setting).write_text((folder.parent / setting).read_text())


def _raise_watchers(lab: Lab) -> None:
    """A cluster's processes watch more files than a desktop's limit of 128 allows; `remove` puts it back."""
    if int(_INOTIFY.read_text()) < _WATCHERS:
        (lab.folder / "inotify-before").write_text(_INOTIFY.read_text())
        _INOTIFY.write_text(str(_WATCHERS))


def _empty(group: Path) -> None:
    """End what is left in a control group and remove it with all below it."""
    limit = time.monotonic() + 20
    while group.exists() and time.monotonic() < limit:
        for procs in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                for pid in procs.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        for folder in sorted((path.parent for path in group.rglob("cgroup.procs")), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
        time.sleep(0.1)
    if group.exists():
        raise LabError(f"The control group {group} can't be removed; see which processes are in its cgroup.procs")
