"""A worker cluster that joined by the commands of docs/clusters.md, and the people who use it with plain kubectl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmariner.agent.manifest import AGENT_IMAGE

from ...lab.images import BUSYBOX
from ...lab.kubectl import kubectl
from ...lab.places import Lab
from ...lab.wait import until

__all__ = ["AGENT_NAMESPACE", "CERTIFICATE", "Person", "Worker"]

AGENT_NAMESPACE = "llmariner-agent"
CERTIFICATE = "cert.pem"
"""The file in a person's folder with the certificate of the control plane (`tests.tunnel.tls_proxy`)."""
_PROGRAMS = Path(sys.executable).parent
_SECONDS = 60
# Programs such as tar, a file to fetch and a server, one line a second.
_PROGRAM = (
    "busybox --install -s /tmp; mkdir /tmp/www; cd /tmp/www; echo served > index.html; busybox httpd -p 8080 -h /tmp/www; "
    "while true; do echo line; sleep 1; done"
)


@dataclass(frozen=True)
class Person:
    """Somebody with an API key and a machine of their own, `folder`, which knows the platform at `url`."""

    folder: Path
    url: str
    key: str

    def run(self, *words: str, text: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, whatever it says. kubectl uses the kubeconfig once there is one."""
        return subprocess.run(
            words,
            input=text,
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def done(self, *words: str, **env: str) -> str:
        """The output of a program that must succeed."""
        found = self.run(*words, **env)
        assert found.returncode == 0, f"{' '.join(words)}: {found.stderr}"
        return found.stdout

    @property
    def is_plain(self) -> bool:
        """Whether the platform is reached without TLS."""
        return self.url.startswith("http://")

    def environment(self, **env: str) -> dict[str, str]:
        """The environment of programs, for those that continue."""
        trusted = {} if self.is_plain else {"SSL_CERT_FILE": str(self.folder / CERTIFICATE)}
        return {
            "PATH": f"{_PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LLMARINER_HOME": str(self.folder),
            "LLMARINER_BASE_URL": f"{self.url}/v1",
            "LLMARINER_API_KEY": self.key,
            "KUBECONFIG": str(self.folder / "kubeconfig"),
            **trusted,
            **env,
        }


@dataclass(frozen=True)
class Worker:
    """The cluster `lab`, which the control plane calls `name`; its administrator works on this machine."""

    lab: Lab
    name: str
    namespace: str

    def join(self, owner: Person, *, work: bool = False, control_plane: str = "") -> None:
        """`llma admin clusters join NAME | kubectl apply -f -`, and wait until the cluster is connected.

        `control_plane`: its URL for the cluster, if not that of people. `work`: the platform may run work there; a cluster
        in which a platform is installed has its namespaces already.
        """
        options = ["--image", f"dev.local/{AGENT_IMAGE}"]
        options += ["--plain-http"] if owner.is_plain else ["--ca-file", str(owner.folder / CERTIFICATE)]
        options += ["--control-plane", control_plane] if control_plane else []
        options += [] if work else ["--sessions-only"]
        manifest = owner.done("llma", "admin", "clusters", "join", self.name, *options)
        kubectl(self.lab, "apply", "-f", "-", text=manifest)
        until("the agent", lambda: self._not_connected(owner), seconds=180, pause=1)

    def _not_connected(self, owner: Person) -> str | None:
        shown = owner.done("llma", "admin", "clusters", "status", self.name)
        return None if "is connected" in shown and re.search(r"^nodes +ok", shown, re.M) else shown.splitlines()[0]

    def make_pod(self) -> None:
        """The namespace with the pod `web`."""
        kubectl(self.lab, "create", "namespace", self.namespace)
        container = {
            "name": "web",
            "image": BUSYBOX,
            "command": ["/bin/busybox", "sh", "-c", _PROGRAM],
            "stdin": True,
            "env": [{"name": "PATH", "value": "/bin:/tmp"}],
            "securityContext": {"runAsUser": 65532},
        }
        pod: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": self.namespace},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
        }
        kubectl(self.lab, "apply", "-f", "-", text=json.dumps(pod))
        kubectl(self.lab, "wait", "-n", self.namespace, "--for=condition=Ready", "pod/web", "--timeout=90s")

    def kill_agent(self) -> None:
        """End the agent's pod at once; its Deployment makes another one."""
        label = "app.kubernetes.io/name=llmariner-agent"
        kubectl(self.lab, "delete", "pod", "-n", AGENT_NAMESPACE, "-l", label, "--force", "--grace-period=0")

    def clean(self) -> None:
        """Remove what `join`, `make_pod` and the permissions made."""
        kubectl(self.lab, "delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")
        kubectl(self.lab, "delete", "namespace", AGENT_NAMESPACE, "--ignore-not-found", "--timeout=100s")
        kubectl(self.lab, "delete", "priorityclass", "llmariner-agent", "--ignore-not-found")
        for name in ("llmariner-agent", "llmariner-sessions", "llmariner-control-plane"):
            kubectl(self.lab, "delete", "clusterrole,clusterrolebinding", name, "--ignore-not-found")
