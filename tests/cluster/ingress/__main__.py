"""`python -m tests.cluster.ingress --kubeconfig FILE --folder DIR`: keeps an Envoy's routes as the Ingress objects say.

Envoy is started with DIR/envoy.json, which this writes first; an Ingress is called ready once Envoy answers by its routes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from pathlib import Path
from typing import Any

from llmariner.errors import Unavailable
from llmariner.platform.kube.connection import Connection
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.kube.resources import SERVICES, Resource
from llmariner.settings import ClusterSettings

from .routes import PROBE, Body, backends, bootstrap, clusters, routes

CLASS = "lab.ingress.networking.knative.dev"
INGRESSES = Resource("networking.internal.knative.dev/v1alpha1", "Ingress", "ingresses")
PORTS = {"external": 8080, "internal": 8081}
ADMIN = 19001
_PAUSE_SECONDS = 0.3
_MERGE = "application/merge-patch+json"
# The names under which functions and the edge reach the two listeners, as Kourier's are.
_NAMES = {"external": "kourier", "internal": "kourier-internal"}
_NAMESPACE = "kourier-system"


class Ingresses:
    """The state of the loop: what was last seen, and where each Service is."""

    def __init__(self, connection: Connection, folder: Path) -> None:
        self._connection = connection
        self._folder = folder
        self._addresses: dict[tuple[str, str, int], str] = {}
        self._seen = ""
        self._version = int(time.time())

    def step(self) -> None:
        """Look, and if anything changed, route by it and say that it is so."""
        found = self._connection.request("GET", INGRESSES.path(None))["items"]
        ingresses = [each for each in found if _class(each) == CLASS and "deletionTimestamp" not in each["metadata"]]
        self._locate(backends(ingresses))
        seen = json.dumps([[each["metadata"]["uid"], each["spec"]] for each in ingresses]) + repr(self._addresses)
        if seen != self._seen:
            self._version += 1
            self.write(ingresses)
            self._wait_for_envoy()
            self._seen = seen
        for ingress in ingresses:
            if not _ready(ingress):
                self._say_ready(ingress)

    def write(self, ingresses: list[Body]) -> None:
        """Replace Envoy's files: clusters before the routes that name them, each whole or not at all."""
        self._put("clusters", clusters(self._addresses))
        for name in PORTS:
            self._put(name, routes(name, ingresses, self._addresses, str(self._version)))

    def _put(self, name: str, content: Body) -> None:
        part = self._folder / f"{name}.json.part"
        part.write_text(json.dumps({"version_info": str(self._version), **content}))
        part.replace(self._folder / f"{name}.json")

    def _locate(self, wanted: set[tuple[str, str, int]]) -> None:
        """Addresses of Services; those that are no longer wanted stay, since streams may still be under way to them."""
        for backend in wanted - self._addresses.keys():
            try:
                service = self._connection.request("GET", SERVICES.path(backend[0], backend[1]))
            except ClusterError:
                continue
            if (address := service["spec"].get("clusterIP", "None")) not in ("None", ""):
                self._addresses[backend] = address

    def _wait_for_envoy(self) -> None:
        limit = time.monotonic() + 20
        while not all(_in_force(port, str(self._version)) for port in PORTS.values()):
            if time.monotonic() > limit:
                raise TimeoutError(f"Envoy does not take version {self._version} of the routes")
            time.sleep(0.02)

    def _say_ready(self, ingress: Body) -> None:
        metadata = ingress["metadata"]
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        kinds = ("Ready", "NetworkConfigured", "LoadBalancerReady")
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds]
        status: Body = {"observedGeneration": metadata["generation"], "conditions": conditions}
        for key, listener in (("publicLoadBalancer", "external"), ("privateLoadBalancer", "internal")):
            domain = f"{_NAMES[listener]}.{_NAMESPACE}.svc.cluster.local"
            status[key] = {"ingress": [{"domainInternal": domain}]}
        path = INGRESSES.path(metadata["namespace"], metadata["name"], "status")
        self._connection.request("PATCH", path, None, {"status": status}, _MERGE)


def _class(ingress: Body) -> str:
    annotations: dict[str, str] = ingress["metadata"].get("annotations", {})
    return annotations.get("networking.knative.dev/ingress.class", "")


def _ready(ingress: Body) -> bool:
    status = ingress.get("status", {})
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ()))
    return ready and status.get("observedGeneration") == ingress["metadata"]["generation"]


def _in_force(port: int, version: str) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/", headers={"host": PROBE})
        return connection.getresponse().read().decode() == version
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Run until ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.ingress", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    words: Any = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    loop = Ingresses(Connection(ClusterSettings(words.kubeconfig)), words.folder)
    loop.write([])
    (words.folder / "envoy.json").write_text(json.dumps(bootstrap(str(words.folder), ADMIN, PORTS)))
    while True:
        try:
            loop.step()
        except (ClusterError, Unavailable, TimeoutError) as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            time.sleep(2)
        time.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    main()
