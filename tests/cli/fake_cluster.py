"""A healthy cluster in an in-process API server: the objects of other projects, and an installation of the platform.

The installation is what kubectl renders from `manifests/overlays/playground`; other projects' settings are their
upstream files; statuses are those that controllers write when they finish.
"""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CHECKOUT", "Body", "FakeCluster", "conditions_status", "rendered"]

Body = dict[str, Any]

CHECKOUT = Path(__file__).parents[2]
PREREQUISITES = CHECKOUT / "manifests/prerequisites"
CONTROLLERS = {
    "knative-serving": ["activator", "autoscaler", "controller", "webhook", "net-kourier-controller"],
    "knative-eventing": [
        "eventing-controller",
        "eventing-webhook",
        "mt-broker-controller",
        "mt-broker-filter",
        "mt-broker-ingress",
        "imc-controller",
        "imc-dispatcher",
    ],
    "kserve": ["kserve-controller-manager"],
    "kueue-system": ["kueue-controller-manager"],
}
SECRETS = {
    "llmariner-secrets": ["LLMARINER_PEPPER", "LLMARINER_SERVICE_SECRET"],
    "llmariner-postgres": ["host", "port", "database", "user", "password"],
    "llmariner-pgbouncer": ["pgbouncer.ini", "userlist.txt"],
    "llmariner-database": ["LLMARINER_DATABASE_URL"],
}

# For a type checker the packages of `tests` are top-level: a relative import cannot name another one.
_api, _status_errors, _schemas, _server, _store = (
    importlib.import_module(f"..kubernetes_api.{name}", __package__)
    for name in ("api", "status_errors", "schemas", "server", "store")
)


@functools.cache
def rendered(overlay: str) -> list[Body]:
    """The objects that `kubectl apply -k` would send; shared, so not to be modified."""
    kubectl = Path(sys.executable).with_name("kubectl")
    shown = subprocess.run(
        [kubectl, "kustomize", CHECKOUT / "manifests/overlays" / overlay], check=True, capture_output=True, text=True
    )
    return list(yaml.load_all(shown.stdout, Loader=yaml.CSafeLoader))


@functools.cache
def _validator(crds: Path) -> Any:
    """The shared validator, since reading the schemas is slow."""
    return _schemas.Schemas(crds)


def conditions_status(*kinds: str, status: str = "True", reason: str = "Fine", message: str = "") -> Body:
    """A status with these conditions."""
    values = {"status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-24T12:00:00Z"}
    return {"conditions": [{"type": kind, **values} for kind in kinds]}


class FakeCluster:
    """An API server whose objects `populate` creates."""

    def __init__(self) -> None:
        crds: Path = _schemas.folder()
        self.crds = crds
        self._schemas = _validator(crds)
        self.server = _server.ApiServer(self._schemas, crds)
        self._all_kinds = list(self.server.api.kinds)
        self._filled = False
        self._originals: list[tuple[Any, tuple[str, str], Body | None]] = []

    def reset(self) -> None:
        """Restore the state after `populate` by reverting the changes of the methods below, which is faster."""
        if not self._filled:
            self.populate()
            self._filled = True
            self._originals.clear()
        for kind, (namespace, name), body in reversed(self._originals):
            if self._read(kind, (namespace, name)) is not None:
                self.server.store.delete(kind, (namespace, name), {}, dry_run=False)
            if body is not None:
                kept = {
                    k: v for k, v in body["metadata"].items() if k in ("name", "namespace", "labels", "annotations")
                }
                self._make(kind, {**body, "metadata": kept})
        self._originals.clear()
        self.server.api.forbidden.clear()

    def clear(self, *, without: Callable[[Any], bool] = lambda kind: False) -> None:
        """Delete all objects and serve all kinds except those of `without`."""
        self._filled = False
        self._originals.clear()
        self.server.store = _store.Store(self._schemas)
        kinds = [kind for kind in self._all_kinds if not without(kind)]
        self.server.api = _api.Api(self.server.store, kinds)

    def populate(self, *, overlay: str = "playground", without: Callable[[Any], bool] = lambda kind: False) -> None:
        """Create the objects of a healthy cluster; an empty `overlay`: without the platform."""
        self.clear(without=without)
        for body in [*_third_party_objects(self.crds), *(_platform_objects(overlay) if overlay else ())]:
            self.create(body)

    def create(self, body: Body) -> None:
        """Create the object with its status; do nothing where its kind is not served."""
        kind = self._kind(body["apiVersion"], body["kind"])
        if kind is not None:
            self._remember(kind, (body["metadata"].get("namespace", ""), body["metadata"]["name"]))
            self._make(kind, body)

    def modify(self, kind: str, place: str, change: Callable[[Body], object], *, status: bool = False) -> None:
        """Modify an object; `place`: `NAMESPACE/NAME`, or `NAME` of a cluster-scoped object."""
        namespace, _, name = place.rpartition("/")

        def changed(old: Body) -> Body:
            change(old["status"] if status else old)
            return old

        self._update(self._kind_named(kind), (namespace, name), changed, "status" if status else "")

    def set_status(self, kind: str, place: str, status: Body) -> None:
        """Replace the status of an object."""
        namespace, _, name = place.rpartition("/")
        self._update(self._kind_named(kind), (namespace, name), lambda old: {**old, "status": status}, "status")

    def delete(self, kind: str, place: str) -> None:
        """Delete an object."""
        namespace, _, name = place.rpartition("/")
        self._remember(self._kind_named(kind), (namespace, name))
        self._filled &= kind != "Namespace"  # its objects are deleted too
        self.server.store.delete(self._kind_named(kind), (namespace, name), {}, dry_run=False)

    def _make(self, kind: Any, body: Body) -> None:
        place = body["metadata"].get("namespace", ""), body["metadata"]["name"]
        bare = {key: value for key, value in body.items() if key != "status"}
        self.server.store.create(kind, place[0], bare, _store.Write("test"))
        if body.get("status"):
            write = _store.Write("test", subresource="status")
            self.server.store.update(kind, place, lambda old: {**old, "status": body["status"]}, write)

    def _update(self, kind: Any, place: tuple[str, str], change: Callable[[Body], Body], subresource: str) -> None:
        self._remember(kind, place)
        self.server.store.update(kind, place, change, _store.Write("test", subresource=subresource))

    def _remember(self, kind: Any, place: tuple[str, str]) -> None:
        self._originals.append((kind, place, self._read(kind, place)))

    def _read(self, kind: Any, place: tuple[str, str]) -> Body | None:
        try:
            found: Body = self.server.store.read(kind, place)
        except _status_errors.StatusError:
            return None
        return found

    def _kind(self, api_version: str, name: str) -> Any:
        found = (each for each in self.server.api.kinds if (each.api_version, each.name) == (api_version, name))
        return next(found, None)

    def _kind_named(self, kind: str) -> Any:
        """The kind by name and optional group: `Service`, `Service.serving.knative.dev`."""
        name, _, group = kind.partition(".")
        found = [each for each in self.server.api.kinds if each.name == name and (not group or each.group == group)]
        return found[0]


def _third_party_objects(crds: Path) -> Iterator[Body]:
    """By the administrator of the cluster."""
    for namespace in (*CONTROLLERS, "kourier-system"):
        yield _object("v1", "Namespace", namespace)
    for namespace, names in CONTROLLERS.items():
        for name in names:
            yield _deployment(namespace, name)
    yield from _configured(crds)
    yield _object("v1", "Service", "kourier-internal", "kourier-system", spec={"ports": [{"port": 80}]})
    controller = {"controllerName": "projectcontour.io/gateway-controller"}
    yield _object(
        "gateway.networking.k8s.io/v1", "GatewayClass", "contour", spec=controller, status=conditions_status("Accepted")
    )
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    yield _object("storage.k8s.io/v1", "StorageClass", "local", annotations=default, provisioner="example.org/local")
    yield _object("v1", "Node", "node-1", status=_node())


def _node() -> Body:
    offered = {"cpu": "7910m", "memory": "32Gi", "pods": "110"}
    condition = {"type": "Ready", "status": "True"}
    return {"allocatable": offered, "capacity": offered, "conditions": [condition]}


def _configured(crds: Path) -> Iterator[Body]:
    """The ConfigMaps of others: upstream's files, and what the prerequisites set in them."""
    for file in sorted((crds / "knative-serving/config").glob("*.yaml")):
        body = yaml.safe_load(file.read_text())
        prerequisite = PREREQUISITES / f"{body['metadata']['name']}.yaml"
        if prerequisite.is_file():
            body["data"] |= yaml.safe_load(prerequisite.read_text())["data"]
        if body["metadata"]["name"] == "config-network":
            body["data"]["ingress-class"] = "kourier.ingress.networking.knative.dev"
        yield body
    yield yaml.safe_load((crds / "kserve/config/inferenceservice.yaml").read_text())
    kueue = {"controller_manager_config.yaml": (crds / "kueue/config/controller_manager_config.yaml").read_text()}
    yield _object("v1", "ConfigMap", "kueue-manager-config", "kueue-system", data=kueue)


def _platform_objects(overlay: str) -> Iterator[Body]:
    """Ours, and what becomes of it."""
    for body in rendered(overlay):
        yield body | _status_of(body)
    for name, keys in SECRETS.items():
        yield _object("v1", "Secret", name, "llmariner", data=dict.fromkeys(keys, "eA=="))
    for name in (each["metadata"]["name"] for each in rendered(overlay) if _is_function(each)):
        found = {"serving.knative.dev/service": name}
        yield _deployment("llmariner", f"{name}-00001-deployment", found)


def _status_of(body: Body) -> Body:
    kind, group = body["kind"], body["apiVersion"].partition("/")[0]
    parents = [
        {
            "controllerName": "a.example/b",
            "parentRef": {"name": "llmariner"},
            **conditions_status("Accepted", "ResolvedRefs"),
        }
    ]
    found: dict[str, Body] = {
        "Gateway": conditions_status("Accepted", "Programmed")
        | {"addresses": [{"type": "IPAddress", "value": "192.0.2.7"}]},
        "HTTPRoute": {"parents": parents},
        "Broker": conditions_status("Ready"),
        "Trigger": conditions_status("Ready"),
        "PingSource": conditions_status("Ready"),
        "ApiServerSource": conditions_status("Ready") | {"namespaces": ["llmariner-models"]},
        "Job": conditions_status("Complete"),
        "ClusterQueue": conditions_status("Active"),
        "LocalQueue": conditions_status("Active"),
        "Deployment": conditions_status("Available") | {"replicas": 1, "readyReplicas": 1},
        "StatefulSet": {"replicas": 1, "readyReplicas": 1},
    }
    if _is_function(body):
        return {"status": conditions_status("Ready") | {"latestReadyRevisionName": f"{body['metadata']['name']}-00001"}}
    return {"status": found[kind]} if kind in found and group != "v1" else {}


def _is_function(body: Body) -> bool:
    return bool(body["kind"] == "Service" and body["apiVersion"].startswith("serving.knative.dev/"))


def _deployment(namespace: str, name: str, labels: dict[str, str] | None = None) -> Body:
    container = {"name": "main", "image": f"registry.example/{name}:v1.2.3"}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template}
    status = conditions_status("Available") | {"replicas": 1, "readyReplicas": 1}
    return _object("apps/v1", "Deployment", name, namespace, labels=labels, spec=spec, status=status)


def _object(
    api_version: str,
    kind: str,
    name: str,
    namespace: str = "",
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **parts: Any,
) -> Body:
    placed = {"namespace": namespace, "labels": labels, "annotations": annotations}
    metadata = {"name": name, **{key: value for key, value in placed.items() if value}}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts}
