"""The Kubernetes port: the only client of the API server, with objects as plain dicts.

Every call blocks, with a timeout: code on an event loop runs it with `asyncio.to_thread`, as it does database work. The
`kubernetes` package is imported when a `Cluster` is created, not with this module: functions scale from zero, and most do
not use it. Errors of the server are in `platform.kube.errors`; `llmariner.errors.Unavailable` when it doesn't respond.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmariner.platform.kube.errors import Invalid, NotFound, unavailable
from llmariner.platform.kube.resources import PODS, Resource, resource_for
from llmariner.platform.kube.watch import Listing, ResourceQuery, Watch, WatchEvent
from llmariner.settings import ClusterSettings

if TYPE_CHECKING:
    import urllib3

    from llmariner.platform.kube.pod_programs import PodProgram
    from llmariner.platform.kube.remote_server import RemoteServer

__all__ = ["FIELD_MANAGER", "Body", "Cluster", "Listing", "Resource", "Watch", "WatchEvent"]

FIELD_MANAGER = "llmariner"
"""The field manager of server-side apply."""

Body = dict[str, Any]

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_LOG_SECONDS = 35.0
_LOG_PART = 64 * 1024
_LOG_TOTAL_SECONDS = 60.0


class Cluster:
    """One API server; safe to share between threads. ValueError: the settings name no cluster.

    Every call may raise Unavailable and Forbidden; one that writes, Invalid, and NotFound where the namespace or the
    kind is missing.
    """

    def __init__(self, settings: ClusterSettings | RemoteServer) -> None:
        from llmariner.platform.kube.connection import Connection

        self._connection = Connection(settings)

    def get_raw(self, path: str) -> Body:
        """The response at a path that is no object's: `/version`, `/apis/GROUP/VERSION`. NotFound."""
        return self._connection.request("GET", path)

    def get(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        """The object; None where it, its namespace or its kind doesn't exist."""
        try:
            return self._connection.request("GET", resource.path(namespace, name))
        except NotFound:
            return None

    def list(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: str | None = None,
    ) -> Listing:
        """All objects with the labels; `namespace` None: of all namespaces; `fields`: a field selector.

        NotFound where the cluster doesn't have the kind.
        """
        return ResourceQuery(self._connection, resource, namespace, labels, fields).list()

    def watch(
        self,
        resource: Resource,
        namespace: str | None,
        *,
        labels: Mapping[str, str] | None = None,
        fields: str | None = None,
        after: Listing | None = None,
        seconds: float | None = None,
    ) -> Watch:
        """Changes after `after` of the objects that `list` with the same arguments returns; without it all objects first."""
        return Watch(ResourceQuery(self._connection, resource, namespace, labels, fields), after, seconds)

    def create(self, body: Body, *, dry_run: bool = False) -> Body:
        """Create an object; returns it as stored. AlreadyExists. `metadata.generateName` lets the server name it."""
        resource, namespace = _target(body)
        return self._connection.request("POST", resource.path(namespace), _write_options(FIELD_MANAGER, dry_run), body)

    def apply(self, body: Body, *, manager: str = FIELD_MANAGER, force: bool = False, dry_run: bool = False) -> Body:
        """Apply the body by server-side apply; returns the object as stored.

        The manager owns the fields that it applies: a field that a later apply omits is removed, unless another manager owns
        it, too. Conflict, whose causes name fields and owners, where a field of another manager would change; `force` takes
        ownership.
        """
        resource, namespace = _target(body)
        path = resource.path(namespace, body["metadata"]["name"])
        query = {**_write_options(manager, dry_run), "force": "true" if force else None}
        return self._connection.request("PATCH", path, query, body, _APPLY)

    def merge_patch(
        self, resource: Resource, namespace: str | None, name: str, patch: Body, *, resource_version: str | None = None
    ) -> Body:
        """Change an object by a JSON merge patch (a null removes); returns it as stored. NotFound.

        Conflict when the object has another resourceVersion than `resource_version`.
        """
        path = resource.path(namespace, name)
        return self._connection.request(
            "PATCH", path, _write_options(FIELD_MANAGER), _with_resource_version(resource_version, patch), _MERGE
        )

    def scale(
        self, resource: Resource, namespace: str, name: str, replicas: int, *, resource_version: str | None = None
    ) -> None:
        """Set the number of replicas, of a kind with a scale subresource. NotFound; Conflict as with `merge`."""
        path = resource.path(namespace, name, "scale")
        patch = _with_resource_version(resource_version, {"spec": {"replicas": replicas}})
        self._connection.request("PATCH", path, _write_options(FIELD_MANAGER), patch, _MERGE)

    def delete(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> bool:
        """Delete the object and, in the background, its dependents; returns whether it existed. Finalizers may delay it.

        Conflict when the object has another uid or resourceVersion.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {key: value for key, value in preconditions.items() if value is not None},
        }
        try:
            self._connection.request("DELETE", resource.path(namespace, name), None, body)
        except NotFound:
            return False
        return True

    def pod_log(self, namespace: str, name: str, container: str, *, skip: int, limit: int) -> bytes:
        """Up to `limit` bytes of a container's output after the first `skip`; empty where there is none (yet).

        The API can't begin in the middle: what is skipped is read, and dropped. Unavailable where that takes too long.
        """
        ends_at = time.monotonic() + _LOG_TOTAL_SECONDS
        path = f"{PODS.path(namespace, name)}/log"
        try:
            response = self._connection.stream(path, {"container": container, "limitBytes": skip + limit}, _LOG_SECONDS)
        except (NotFound, Invalid):  # the pod is gone, or the container has not begun
            return b""
        with response:
            found = bytearray()
            while len(found) < limit and (part := _log_part(response)):
                found += part[skip:]
                skip = max(0, skip - len(part))
                if time.monotonic() > ends_at:
                    raise unavailable(ValueError("its output takes too long"))
            del found[limit:]
            return bytes(found)

    def start_program(self, namespace: str, pod: str, container: str, argv: Sequence[str]) -> PodProgram:
        """Start a program in a running container; the caller closes it. NotFound."""
        return self._connection.start_program(PODS.path(namespace, pod), container, argv)

    def close(self) -> None:
        """Close every pooled connection."""
        self._connection.close()


def _log_part(response: urllib3.BaseHTTPResponse) -> bytes:
    import urllib3

    try:
        return response.read1(_LOG_PART)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise unavailable(error) from error


def _target(body: Body) -> tuple[Resource, str | None]:
    resource = resource_for(body)
    namespace = body.get("metadata", {}).get("namespace")
    if resource.namespaced and not namespace:
        raise ValueError(f"A {resource.kind} stands in a namespace: set metadata.namespace.")
    return resource, namespace


def _write_options(manager: str, dry_run: bool = False) -> dict[str, str | int | None]:
    # The server's default drops an unknown field with a warning header only.
    return {"fieldManager": manager, "fieldValidation": "Strict", "dryRun": "All" if dry_run else None}


def _with_resource_version(resource_version: str | None, patch: Body) -> Body:
    if resource_version is None:
        return patch
    return {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": resource_version}}
