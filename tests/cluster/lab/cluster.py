"""Starts the test cluster part by part, stops it, and reports its state."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from . import control_plane, ingress, network, node
from .installer import install, install_kinds
from .kueue import start_kueue
from .places import Lab
from .processes import alive, running, start, stop
from .program_builds import build
from .wait import LabError

__all__ = ["bring_down", "bring_up", "status"]


def bring_up(lab: Lab, *, rung: int) -> None:
    """Bring the cluster to a rung: 1 is the API server with every CRD, 2 has Kueue besides, 3 is all."""
    if os.geteuid() != 0:
        raise LabError("The test cluster makes network namespaces and control groups: start it as root")
    if rung == 3 and alive(lab, "kueue"):
        raise LabError("Kueue runs as a process of this cluster: stop it first (`down`), then start it with pods")
    build(*{1: ("kubernetes",), 2: ("kubernetes", "kueue"), 3: ()}[rung])
    lab.folder.mkdir(parents=True, exist_ok=True)
    network.make(lab)
    control_plane.start_server(lab)
    if rung < 3:
        install_kinds(lab)
        if rung == 2:
            start_kueue(lab)
        return
    control_plane.start_controllers(lab)
    node.start_runtime(lab)
    node.start_kubelet(lab)
    start(
        lab,
        "ingress",
        sys.executable,
        "-m",
        ingress.__name__,
        f"--number={lab.number}",
        environment={"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    install(lab)


def bring_down(lab: Lab) -> None:
    """End every process, take away mounts, networks and control groups, and delete the run folder."""
    stop(lab, "kubelet", "kube-proxy")
    node.end_containers(lab)
    stop(lab, *running(lab))
    network.remove(lab)
    node.unmount(lab)
    shutil.rmtree(lab.folder, ignore_errors=True)


def status(lab: Lab) -> str:
    """A few lines for people: processes, addresses, the kubeconfig's place."""
    parts = running(lab)
    if "kube-apiserver" not in parts:
        return "No test cluster is up; `make cluster` starts it."
    lines = [
        f"  processes   {', '.join(f'{name} ({pid})' for name, pid in parts.items())}",
        f"  API server  {lab.server}",
        f"  kubeconfig  {lab.kubeconfig}",
        f"  logs        {lab.logs}",
    ]
    return "\n".join(lines)
