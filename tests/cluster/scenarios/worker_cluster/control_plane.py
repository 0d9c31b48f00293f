"""A control plane of one machine, as `llma up` runs it, and what its models need of a worker cluster."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmariner import __version__
from llmariner.agent.manifest import AGENT_IMAGE
from llmariner.manifests.installation import MODELS_NAMESPACE, NAMESPACE

from ...lab.images import present
from ...lab.kubectl import apply, kubectl
from ...lab.places import Lab
from ...lab.processes import running as running_processes
from ...lab.wait import until
from ...platform import overlay
from ...platform.installed import Installed

__all__ = ["ENGINE", "ControlPlane", "engines", "running", "unfit"]

ENGINE = f"dev.local/llmariner/engine:{__version__}"
_RUNTIME = "vllm-cpu"
_HEARTBEAT_SECONDS = 5


@dataclass(frozen=True)
class ControlPlane(Installed):
    """The worker cluster's control plane, on this machine. `home`: its folder."""

    home: Path

    @property
    def address(self) -> str:
        """Where the cluster's pods reach this machine."""
        return self.lab.host_address

    @property
    def database_url(self) -> str:
        """See `Installed`."""
        return f"sqlite:///{self.home / 'platform.db'}"

    @property
    def api_key(self) -> str:
        """See `Installed`."""
        return (self.home / "admin.key").read_text()


def unfit(lab: Lab) -> str | None:
    """Why a test cluster can't be a worker that serves models; None: it can."""
    if "kubelet" not in running_processes(lab):
        return (
            f"the test cluster {lab.number} is not up; `python -m tests.cluster.lab --number {lab.number} up` starts it"
        )
    if kubectl(lab, "get", "namespace", NAMESPACE, "--ignore-not-found"):
        return f"the platform is installed in the test cluster {lab.number}, whose namespaces the worker's would be"
    if missing := {ENGINE, f"dev.local/{AGENT_IMAGE}"} - present(lab):
        return f"the test cluster {lab.number} lacks {missing}; `python -m tests.cluster.lab load` brings images there"
    return None


@contextlib.contextmanager
def running(lab: Lab, home: Path) -> Iterator[ControlPlane]:
    """A platform in an empty folder."""
    environment = {
        **os.environ,
        "LLMARINER_HOME": str(home),
        "LLMARINER_HOST": lab.host_address,
        "LLMARINER_PORT": "80",
        "LLMARINER_CLUSTER_HEARTBEAT_SECONDS": str(_HEARTBEAT_SECONDS),
        "LLMARINER_ENGINE_CPU": "700m",
        "LLMARINER_ENGINE_MEMORY": "4Gi",
        "LLMARINER_JOB_IMAGES": f"python={ENGINE}",
        "LLMARINER_JOB_MEMORY_GIB": "0.25",
        "LLMARINER_JOB_CPU": "200m",
    }
    home.mkdir(parents=True)
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "llmariner.standalone.daemon"], env=environment, stdout=output, stderr=output
        )
    try:
        until("the control plane", lambda: _not_listening(process, home), seconds=90)
        yield ControlPlane(lab, home)
    finally:
        process.terminate()
        process.wait(60)


def _not_listening(process: subprocess.Popen[bytes], home: Path) -> str | None:
    assert process.poll() is None, (home / "output").read_text()
    return None if (home / "platform.json").exists() else "it does not listen yet"


@contextlib.contextmanager
def engines(lab: Lab) -> Iterator[None]:
    """The runtime of engines and this machine's models, in a worker cluster that has joined."""
    volumes = [
        each for name, path in overlay._folders().items() for each in overlay._volume(name, path, MODELS_NAMESPACE)
    ]
    try:
        apply(lab, [overlay.engine_runtime(_RUNTIME), *volumes])
        yield
    finally:
        kubectl(lab, "delete", "inferenceservices", "--all", "-n", MODELS_NAMESPACE, seconds=180)
        kubectl(lab, "delete", "clusterservingruntime", _RUNTIME, "--ignore-not-found")
        kubectl(lab, "delete", "namespace", MODELS_NAMESPACE, "--timeout=100s")
        names = [f"pv/{each['metadata']['name']}" for each in volumes if each["kind"] == "PersistentVolume"]
        kubectl(lab, "delete", "--ignore-not-found", "--wait=false", *names)
