"""Takes parts of an installed platform away, as crashes and drains do."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..lab.kubectl import get, kubectl
from ..lab.places import Lab
from ..lab.wait import run

__all__ = ["crash", "crash_pod", "cut_off", "drain", "processes_of", "processes_of_pod", "stopped"]


def drain(lab: Lab, namespace: str, selector: str) -> int:
    """Have the pods of a selector end gracefully, as a node drain does; returns how many."""
    names = [pod["metadata"]["name"] for pod in _pods(lab, namespace, selector)]
    if names:
        kubectl(lab, "delete", "pods", "-n", namespace, "--wait=false", "--ignore-not-found", *names)
    return len(names)


def crash(lab: Lab, namespace: str, selector: str) -> int:
    """Kill every process of the pods' containers at once; returns their number."""
    return _kill(processes_of(lab, namespace, selector))


def crash_pod(lab: Lab, namespace: str, name: str) -> int:
    """As `crash`, of one pod."""
    return _kill(processes_of_pod(lab, namespace, name))


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Suspend processes for the block, and resume them."""
    assert pids, "nothing to stop"
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def cut_off(lab: Lab) -> Iterator[None]:
    """For the block, no packet passes between the cluster's pods and this machine: nothing is refused, all is lost."""
    rules = [("FORWARD", side, lab.host_address, "-j", "DROP") for side in ("-s", "-d")]
    inside = ("nsenter", f"--net={lab.namespace}", "--", "iptables", "-w")
    try:
        for rule in rules:
            run(*inside, "-I", *rule)
        yield
    finally:
        for rule in rules:
            run(*inside, "-D", *rule)


def processes_of(lab: Lab, namespace: str, selector: str) -> list[int]:
    """The processes of containers, seen from the node, which is this machine."""
    return _processes(_pods(lab, namespace, selector))


def processes_of_pod(lab: Lab, namespace: str, name: str) -> list[int]:
    """As `processes_of`, of one pod."""
    return _processes(get(lab, "pods", "-n", namespace, "--field-selector", f"metadata.name={name}")["items"])


def _processes(pods: list[dict[str, Any]]) -> list[int]:
    statuses = [each for pod in pods for each in pod["status"].get("containerStatuses", ())]
    ids = [each["containerID"].rpartition("/")[2] for each in statuses if each.get("containerID")]
    found = []
    for place in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            groups = place.read_text()
            if any(each in groups for each in ids):
                found.append(int(place.parent.name))
    return sorted(found)


def _kill(pids: list[int]) -> int:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def _pods(lab: Lab, namespace: str, selector: str) -> list[dict[str, Any]]:
    pods = get(lab, "pods", "-n", namespace, "-l", selector)["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
