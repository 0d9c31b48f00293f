"""Standby pods on the simulated cluster: the image's own program and launcher, and the status that a kubelet reports.

In place of vLLM stands the scripted engine; that vLLM itself is forked there is tested in `tests/images`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmariner.platform.kube.resources import CLUSTER_SERVING_RUNTIMES, PODS
from llmariner.platform.serving.kserve.objects import INFERENCE_SERVICE_LABEL
from llmariner.platform.serving.kserve.phases import STANDBY_LABEL

from .kserve_cluster import NAMESPACE, SCRIPTED, ServingOnCluster

if TYPE_CHECKING:
    from kubernetes_api.caller import Body

CHECKOUT = Path(__file__).parents[2]
TOKEN = "standby-0123456789"
RUNTIME = "vllm-cpu"
_PROGRAM = """#!{python}
# Takes arguments as `--name=value`; notes all of them.
import json
import os
import sys

open({noted!r}, "a").write(json.dumps(sys.argv[1:]) + "\\n")
said = dict(each[2:].split("=", 1) for each in sys.argv[1:] if each.startswith("--") and "=" in each)
model, port = said["served-model-name"], said["port"]
command = [{python!r}, {scripted!r}, "--port", port, "--model", model, "--ready-after", "0.3"]
os.execv({python!r}, command)
"""


class StandbyPods:
    """Standby pods and their processes; the controllers' thread calls it in each round."""

    def __init__(self, folder: Path, cluster: ServingOnCluster) -> None:
        self.cluster = cluster
        self.noted = folder / "arguments"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.programs = folder / "standby"
        self.programs.mkdir()
        (self.programs / "python").symlink_to(sys.executable)
        program = _PROGRAM.format(python=sys.executable, noted=str(self.noted), scripted=str(SCRIPTED))
        (self.programs / "vllm").write_text(program)
        (self.programs / "vllm").chmod(0o755)
        for source in ("images/engine/standby.py", "shared/llmariner/platform/serving/local_processes/launcher.py"):
            shutil.copy(CHECKOUT / source, self.programs)
        cluster.caller.make(CLUSTER_SERVING_RUNTIMES, self._runtime())
        cluster.controllers.extra_steps.append(self.act_as_kubelet)

    @property
    def arguments(self) -> list[list[str]]:
        """The arguments of each started engine."""
        return [json.loads(line) for line in self.noted.read_text().splitlines()] if self.noted.exists() else []

    def start(
        self,
        name: str,
        control: int,
        *,
        token: str = TOKEN,
        memory: str = "8Gi",
        runtime: str = RUNTIME,
        service: str = "",
    ) -> None:
        """A pod that stands by, as the Deployment's template makes one; `service`: an InferenceService that made it."""
        container = {
            "name": "kserve-container",
            "image": "engine",
            "ports": [{"containerPort": self.cluster.controllers.port}, {"containerPort": control, "name": "control"}],
            "resources": {"limits": {"cpu": "4", "memory": memory}},
            "volumeMounts": [{"name": "models", "mountPath": "/mnt/pvc/models"}],
        }
        labels = {
            STANDBY_LABEL: runtime,
            "app.kubernetes.io/name": "standby-engine",
            "pod-template-hash": "of-the-standby",
        }
        labels |= {"kueue.x-k8s.io/queue-name": "cpu", "kueue.x-k8s.io/priority-class": "llmariner-standby"}
        if service:
            labels[INFERENCE_SERVICE_LABEL] = service
        volumes = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
        spec = {"containers": [container], "volumes": volumes}
        environment = {**os.environ, "STANDBY_TOKEN": token, "CONTROL_PORT": str(control), "TMPDIR": str(self.programs)}
        command = [str(self.programs / "python"), str(self.programs / "standby.py")]
        self.processes[name] = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        self.cluster.caller.make(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def pod(self, name: str) -> Body | None:
        code, body = self.cluster.caller.request("GET", PODS.path(NAMESPACE, name))
        return body if code == 200 else None

    def warm(self, name: str) -> bool:
        """Whether its startup probe has passed."""
        statuses = ((self.pod(name) or {}).get("status") or {}).get("containerStatuses", ())
        return any(each.get("started") for each in statuses)

    def act_as_kubelet(self) -> None:
        """Act as a kubelet: probe and restart containers, stop the processes of deleted pods."""
        for name, process in list(self.processes.items()):
            if (pod := self.pod(name)) is None:
                process.terminate()
                process.wait(30)
                del self.processes[name]
                continue
            before = pod.get("status", {}).get("containerStatuses", [{"started": False, "restartCount": 0}])[0]
            engine, control = (each["containerPort"] for each in pod["spec"]["containers"][0]["ports"])
            restarts = before["restartCount"] + (process.poll() is not None and not before["restartCount"])
            status: Body = {
                "name": "kserve-container",
                "image": "engine",
                "imageID": "",
                "restartCount": int(restarts),
                "started": before["started"] or _answers(control, "/ready"),
                "ready": _answers(engine, "/health") and STANDBY_LABEL in pod["metadata"]["labels"],
                "state": {"running": {}},
            }
            conditions = [("PodScheduled", "True"), ("Ready", str(status["ready"]))]
            said = [{"type": kind, "status": value} for kind, value in conditions]
            body = {"phase": "Running", "podIP": "127.0.0.1", "conditions": said, "containerStatuses": [status]}
            with contextlib.suppress(AssertionError):  # deleted meanwhile
                self.cluster.caller.set_status(PODS, NAMESPACE, name, body)

    def close(self) -> None:
        for process in list(self.processes.values()):
            process.terminate()
            process.wait(30)

    def _runtime(self) -> Body:
        port = self.cluster.controllers.port
        container: dict[str, Any] = {"name": "kserve-container", "image": "engine"}
        container["args"] = [f"--port={port}", "--served-model-name={{.Name}}", "--dtype=bfloat16"]
        spec = {"supportedModelFormats": [{"name": "vLLM", "autoSelect": False}], "containers": [container]}
        kind = {"apiVersion": CLUSTER_SERVING_RUNTIMES.api_version, "kind": CLUSTER_SERVING_RUNTIMES.kind}
        return {**kind, "metadata": {"name": RUNTIME}, "spec": spec}


def _answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
        return True
    return False
