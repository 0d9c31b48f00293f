"""The Kubernetes port: the one place of our code that talks to an API server, in plain dicts.

Every call blocks, within bounds: an adapter in an event loop runs it with `asyncio.to_thread`, as database work is. The
`kubernetes` package is imported when a `Cluster` is made, not with this module: functions scale from zero, and most
never ask. Refusals are in `platform.kube.errors`; a server that doesn't answer is `llmariner.errors.Unavailable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmariner.platform.kube.errors import NotFound
from llmariner.platform.kube.resources import Resource, resource_for
from llmariner.platform.kube.watch import Listing, ResourceQuery, Watch, WatchEvent
from llmariner.settings import ClusterSettings

__all__ = ["FIELD_MANAGER", "Body", "Cluster", "Listing", "Resource", "Watch", "WatchEvent"]

FIELD_MANAGER = "llmariner"
"""Our name as an owner of fields."""

Body = dict[str, Any]

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class Cluster:
    """One API server; safe to share between threads. ValueError: the settings name no cluster.

    Every call may raise Unavailable and Forbidden; one that writes, Invalid, and NotFound where the namespace or the
    kind is missing.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        from llmariner.platform.kube.connection import Connection

        self._connection = Connection(settings)

    def get_raw(self, path: str) -> Body:
        """What the server says at a path that is no object's: `/version`, `/apis/GROUP/VERSION`. NotFound."""
        return self._connection.request("GET", path)

    def get(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        """The object, or None where it, its namespace or its kind isn't there."""
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
        """All objects that bear the labels; `namespace` None: of all namespaces; `fields`: a field selector.

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
        """Changes of the objects that `list` with the same arguments gives: first those after `after`, or all."""
        return Watch(ResourceQuery(self._connection, resource, namespace, labels, fields), after, seconds)

    def create(self, body: Body, *, dry_run: bool = False) -> Body:
        """Make a new object; returns it as stored. AlreadyExists. `metadata.generateName` lets the server name it."""
        resource, namespace = _target(body)
        return self._connection.request("POST", resource.path(namespace), _write_options(FIELD_MANAGER, dry_run), body)

    def apply(self, body: Body, *, manager: str = FIELD_MANAGER, force: bool = False, dry_run: bool = False) -> Body:
        """Make the object be as the body says, by server-side apply; returns it as stored.

        The manager owns what it applies: a field left out next time is taken away, unless another owns it too. Conflict,
        whose causes name fields and owners, where another's field would change; `force` takes it over.
        """
        resource, namespace = _target(body)
        path = resource.path(namespace, body["metadata"]["name"])
        asked = {**_write_options(manager, dry_run), "force": "true" if force else None}
        return self._connection.request("PATCH", path, asked, body, _APPLY)

    def merge_patch(
        self, resource: Resource, namespace: str | None, name: str, patch: Body, *, resource_version: str | None = None
    ) -> Body:
        """Change an object by a JSON merge patch (a null removes); returns it as stored. NotFound.

        Conflict when it isn't at `resource_version` any more.
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
        """Delete the object, and in time what it owns; whether it was there. Finalizers may keep it for a while.

        Conflict when its uid or resourceVersion is another.
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

    def close(self) -> None:
        """Close every pooled connection."""
        self._connection.close()


def _target(body: Body) -> tuple[Resource, str | None]:
    resource = resource_for(body)
    namespace = body.get("metadata", {}).get("namespace")
    if resource.namespaced and not namespace:
        raise ValueError(f"A {resource.kind} stands in a namespace: set metadata.namespace.")
    return resource, namespace


def _write_options(manager: str, dry_run: bool = False) -> dict[str, str | int | None]:
    # A server's own default drops an unknown field and says so in a header only.
    return {"fieldManager": manager, "fieldValidation": "Strict", "dryRun": "All" if dry_run else None}


def _with_resource_version(resource_version: str | None, patch: Body) -> Body:
    if resource_version is None:
        return patch
    return {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": resource_version}}
