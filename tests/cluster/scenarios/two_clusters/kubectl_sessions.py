"""What people do in a worker cluster with plain kubectl, from the rights that they need to copies of files."""

from __future__ import annotations

import os
import subprocess
import urllib.request

from ...lab.kubectl import kubectl
from .worker import CERTIFICATE, Person, Worker

__all__ = ["SPDY", "WEBSOCKETS", "exec_and_copy", "forward_a_port", "get_rights", "read", "started"]

WEBSOCKETS = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "true"}
SPDY = dict.fromkeys(WEBSOCKETS, "false")
"""Environments in which kubectl speaks the one protocol, and the other."""


def get_rights(owner: Person, worker: Worker) -> None:
    """A kubeconfig; then the steps without which kubectl says what is missing."""
    authority = ("--certificate-authority", str(owner.folder / CERTIFICATE))
    (owner.folder / "kubeconfig").write_text(
        owner.done("llma", "clusters", "kubeconfig", worker.name, "-n", worker.namespace, *authority)
    )
    projects = ("llma", "admin", "projects")
    assert "Your project has no namespace" in owner.run("kubectl", "get", "pods").stderr
    owner.done(*projects, "update", "Default Project", "--kubernetes-namespace", worker.namespace)
    refused = owner.run("kubectl", "get", "pods").stderr
    command = next(part for part in refused.split("`") if part.startswith("llma admin clusters permissions"))
    subprocess.run(
        ["bash", "-ceu", command.replace("kubectl", f"kubectl --kubeconfig={worker.lab.kubeconfig}")],
        env=owner.environment(),
        check=True,
        capture_output=True,
        timeout=60,
    )


def read(owner: Person, worker: Worker) -> None:
    """Lists, output and changes of the pod; and what is refused."""
    assert owner.done("kubectl", "get", "pods", "--no-headers").split()[:3] == ["web", "1/1", "Running"]
    assert "line" in owner.done("kubectl", "logs", "web", "--tail=1")
    for words, message in (
        (("delete", "pod", "web"), "does not allow this method"),
        (("get", "secrets"), "You may not list secrets"),
        (("get", "pods", "-n", "kube-system"), "no namespace 'kube-system'"),
        (("get", "nodes"), "is not inside a namespace"),
    ):
        assert message in owner.run("kubectl", *words).stderr
    with started(owner, "kubectl", "logs", "-f", "web", "--tail=1") as logs:
        assert [logs.stdout.readline() for _ in range(3)] == ["line\n"] * 3  # type: ignore[union-attr]
        logs.kill()
    _watch(owner, worker)


def _watch(owner: Person, worker: Worker) -> None:
    with started(owner, "kubectl", "get", "pods", "-w", "--no-headers", "--show-labels") as watched:
        assert "seen=" not in watched.stdout.readline()  # type: ignore[union-attr]
        kubectl(worker.lab, "label", "pod", "web", "-n", worker.namespace, "seen=yes", "--overwrite")
        assert "seen=yes" in watched.stdout.readline()  # type: ignore[union-attr]
        watched.kill()


def exec_and_copy(owner: Person, protocol: dict[str, str]) -> None:
    """Programs with their exit code, input and terminal; files there and back."""
    failed = owner.run(
        "kubectl", "exec", "web", "--", "busybox", "sh", "-c", "echo out; echo no >&2; exit 7", **protocol
    )
    assert (failed.returncode, failed.stdout) == (7, "out\n")
    assert failed.stderr.startswith("no\n")
    piped = ("kubectl", "exec", "-i", "web", "--", "busybox", "wc", "-c")
    assert owner.run(*piped, text="x" * 3_000_000, **protocol).stdout.strip() == "3000000"
    terminal = "kubectl exec -it web -- busybox sh -c 'test -t 0 && echo terminal'"
    assert "terminal" in owner.done("script", "-qec", terminal, "/dev/null", **protocol)
    here, there = owner.folder / "sent", owner.folder / "fetched"
    here.write_bytes(os.urandom(2_000_000))
    owner.done("kubectl", "cp", str(here), "web:/tmp/copy", **protocol)
    owner.done("kubectl", "cp", "web:/tmp/copy", str(there), **protocol)
    assert there.read_bytes() == here.read_bytes()
    with started(owner, "kubectl", "attach", "web", **protocol) as attached:
        assert "line\n" in [attached.stdout.readline() for _ in range(3)]  # type: ignore[union-attr]
        attached.kill()


def forward_a_port(owner: Person, protocol: dict[str, str]) -> None:
    """Requests to the pod's server."""
    with started(owner, "kubectl", "port-forward", "pod/web", ":8080", **protocol) as forwarded:
        said = forwarded.stdout.readline()  # type: ignore[union-attr]
        address = said.removeprefix("Forwarding from ").split(" ->")[0]
        for _ in range(3):
            with urllib.request.urlopen(f"http://{address}/", timeout=20) as response:
                assert response.read() == b"served\n"
        forwarded.kill()


def started(owner: Person, *words: str, **env: str) -> subprocess.Popen[str]:
    """A program that continues. `with` it, and kill it in there."""
    return subprocess.Popen(
        words, env=owner.environment(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
