"""What scenarios see of functions: their Knative Services, their pods, and Knative's ingress to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmariner.manifests.installation import NAMESPACE

from ..lab.kubectl import get, kubectl
from ..lab.wait import until
from ..platform.installed import Installed

__all__ = ["Answer", "Call", "Functions"]

Body = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One HTTP request; `body` as JSON."""

    method: str = "GET"
    path: str = "/health/live"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True)
class Answer:
    """`seconds` from the connection's opening to the answer's last byte."""

    status: int
    body: bytes
    seconds: float


class Functions:
    """All functions of an installed platform."""

    def __init__(self, installed: Installed) -> None:
        self.installed, self.lab = installed, installed.lab
        status = get(self.lab, "gateway.gateway.networking.k8s.io", "-n", "knative-gateway")["items"][0]["status"]
        self.local_gateway = str(status["addresses"][0]["value"])
        # kubectl runs once: it takes longer than a request.
        self.gateway, self.key = installed.address, installed.api_key

    def services(self) -> dict[str, Body]:
        """Knative Services by name."""
        return {each["metadata"]["name"]: each for each in get(self.lab, "ksvc", "-n", NAMESPACE)["items"]}

    def pods(self) -> dict[str, list[Body]]:
        """By function, those that are not ending. A function without any is at zero."""
        found: dict[str, list[Body]] = {}
        for pod in get(self.lab, "pods", "-n", NAMESPACE, "-l", "serving.knative.dev/service")["items"]:
            if "deletionTimestamp" not in pod["metadata"]:
                found.setdefault(pod["metadata"]["labels"]["serving.knative.dev/service"], []).append(pod)
        return found

    def pod(self, name: str) -> Body:
        """One that answers."""
        for pod in self.pods().get(name, ()):
            if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ())):
                return pod
        raise AssertionError(f"{name} has no pod that is ready")

    def ask(self, name: str, call: Call, *, seconds: float = 120) -> Answer:
        """Through Knative's local gateway, as other functions and the Broker do."""
        host = f"{name}.{NAMESPACE}.svc.cluster.local"
        return _ask(
            self.local_gateway, Call(call.method, call.path, {"Host": host, **call.headers}, call.body), seconds
        )

    def ask_gateway(self, call: Call, *, seconds: float = 120) -> Answer:
        """Through the platform's Gateway, as the administrator."""
        headers = {"Authorization": f"Bearer {self.key}", **call.headers}
        return _ask(self.gateway, Call(call.method, call.path, headers, call.body), seconds)

    def patch(self, name: str, patch: Any, kind: str = "json") -> None:
        """Change a function's Knative Service."""
        kubectl(self.lab, "patch", "ksvc", name, "-n", NAMESPACE, f"--type={kind}", "-p", json.dumps(patch))

    def ready(self, name: str, *, seconds: float = 180) -> str:
        """Wait until the newest revision is ready and traffic follows its configuration; that revision's name."""
        until(f"{name} is ready", lambda: _not_ready(self.services()[name]), seconds=seconds)
        return str(self.services()[name]["status"]["latestReadyRevisionName"])

    @contextlib.contextmanager
    def changed(self, name: str, patch: list[Body]) -> Iterator[str]:
        """A function under another template, then under its own again; gives the changed revision."""
        before = self.services()[name]["spec"]
        try:
            self.patch(name, patch)
            yield self.ready(name)
        finally:
            self.patch(name, [{"op": "replace", "path": "/spec", "value": before}])
            self.ready(name)


def _not_ready(service: Body) -> str | None:
    status = service.get("status", {})
    if status.get("observedGeneration") != service["metadata"]["generation"]:
        return "not looked at yet"
    ready: Body = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
    return None if ready.get("status") == "True" else str(ready.get("message") or ready.get("reason") or "no condition")


def _ask(address: str, call: Call, seconds: float) -> Answer:
    data = None if call.body is None else json.dumps(call.body).encode()
    headers = dict(call.headers) if data is None else {"Content-Type": "application/json", **call.headers}
    began = time.monotonic()
    with contextlib.closing(http.client.HTTPConnection(address, 80, timeout=seconds)) as connection:
        connection.request(call.method, call.path, data, headers)
        response = connection.getresponse()
        body = response.read()
    return Answer(response.status, body, time.monotonic() - began)
