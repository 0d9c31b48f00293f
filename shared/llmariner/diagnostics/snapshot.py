"""Cached, concurrent reads of a cluster's objects.

`prefetch` starts reads in threads and a check waits for the one it needs, so that a distant cluster costs a few round
trips instead of one per check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from llmariner.diagnostics.result import Body, Unreadable
from llmariner.errors import Unavailable
from llmariner.platform.kube import Cluster, Resource
from llmariner.platform.kube.errors import ClusterError, Forbidden, NotFound

__all__ = ["ClusterSnapshot", "condition", "labels", "not_ready_reason", "spec", "status"]

_CONCURRENT_READS = 8


class ClusterSnapshot:
    """A cached view of a cluster: repeated reads return the same result.

    Every read raises Unreadable where permissions are missing, Unavailable where the server does not answer, or does
    not answer as a Kubernetes API.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pool = ThreadPoolExecutor(_CONCURRENT_READS, "reading")
        self._futures: dict[tuple[Any, ...], Future[Any]] = {}

    def prefetch(self, listed: Iterable[tuple[Resource, str | None]], api_versions: Iterable[str] = ()) -> None:
        """Start listing these resources by namespace (None: all), and the kinds of these API versions; does not wait."""
        for api_version in api_versions:
            self._kinds_future(api_version)
        for resource, namespace in listed:
            self._list_future(resource, namespace)

    def server_version(self) -> str:
        """The Kubernetes version, such as `v1.34.2`."""
        answer = self._document("/version")
        return str(answer.get("gitVersion") or "") if answer else ""

    def served_kinds(self, api_version: str) -> frozenset[str]:
        """The kinds of an API version such as `serving.knative.dev/v1`; empty where it is not served."""
        answer = _result(self._kinds_future(api_version), f"read /apis/{api_version}", None) or {}
        return frozenset(str(each.get("kind")) for each in answer.get("resources") or () if isinstance(each, dict))

    def served_versions(self, group: str) -> list[str]:
        """The served versions of an API group; empty where the group does not exist."""
        groups = (self._document("/apis") or {}).get("groups") or ()
        found: Body = next((each for each in groups if each.get("name") == group), {})
        return [str(each.get("version")) for each in found.get("versions") or ()]

    def list_objects(self, resource: Resource, namespace: str | None = None) -> list[Body]:
        """All objects of a resource; empty where the cluster does not serve it."""
        found: list[Body] = (
            _result(self._list_future(resource, namespace), f"list {_full_name(resource)}", namespace) or []
        )
        return found

    def find_object(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        """An object from the list of its resource, or None."""
        return next((each for each in self.list_objects(resource, namespace) if each["metadata"]["name"] == name), None)

    def get_object(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        """An object by a read of its own, or None."""
        key = ("get", resource, namespace, name)
        found: Body | None = _result(self._submit(key, lambda: self._get(resource, namespace, name)),
                                     f"get {_full_name(resource)}", namespace)  # fmt: skip
        return found

    def close(self) -> None:
        """Cancel the reads that have not started."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _document(self, path: str) -> Body | None:
        found: Body | None = _result(self._submit((path,), lambda: self._cluster.get_raw(path)), f"read {path}", None)
        return found

    def _kinds_future(self, api_version: str) -> Future[Any]:
        root = "apis" if "/" in api_version else "api"
        return self._submit((api_version,), lambda: self._cluster.get_raw(f"/{root}/{api_version}"))

    def _list_future(self, resource: Resource, namespace: str | None) -> Future[Any]:
        return self._submit(("list", resource, namespace), lambda: self._list_now(resource, namespace))

    def _list_now(self, resource: Resource, namespace: str | None) -> list[Body]:
        try:
            return [_checked_object(each) for each in self._cluster.list(resource, namespace).items]
        except (KeyError, TypeError, AttributeError) as error:
            raise _not_kubernetes(resource.path(namespace)) from error

    def _get(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        found = self._cluster.get(resource, namespace, name)
        return None if found is None else _checked_object(found)

    def _submit(self, key: tuple[Any, ...], request: Callable[[], Any]) -> Future[Any]:
        if key not in self._futures:
            self._futures[key] = self._pool.submit(request)
        return self._futures[key]


def spec(body: Body) -> Body:
    """The object's `spec`, or an empty mapping."""
    found: Body = body.get("spec") or {}
    return found


def status(body: Body) -> Body:
    """The object's `status`, or an empty mapping where its controller has written none yet."""
    found: Body = body.get("status") or {}
    return found


def labels(body: Body) -> dict[str, str]:
    """The object's labels."""
    found: dict[str, str] = body["metadata"].get("labels") or {}
    return found


def condition(holder: Body, kind: str) -> Body:
    """The condition of a type in a `status`, or in a mapping with `conditions`; empty where it is absent."""
    found: Body = next((each for each in holder.get("conditions") or () if each.get("type") == kind), {})
    return found


def not_ready_reason(body: Body, kind: str = "Ready") -> str:
    """The controller's reason why the condition of this type does not hold; empty when it holds."""
    found = condition(status(body), kind)
    if found.get("status") == "True":
        return ""
    reasons = [str(found[key]) for key in ("reason", "message") if found.get(key)]
    return ": ".join(reasons) or ("not yet" if found else "no controller has looked at it")


def _full_name(resource: Resource) -> str:
    """The name that RBAC uses: `services.serving.knative.dev` is not `services`."""
    group = resource.api_version.rpartition("/")[0]
    return f"{resource.plural}.{group}" if group else resource.plural


def _result(asked: Future[Any], permission: str, namespace: str | None) -> Any:
    try:
        return asked.result()
    except NotFound:
        return None
    except Forbidden as error:
        in_namespace = f" -n {namespace}" if namespace else ""
        verb, _, what = permission.partition(" ")
        tell = f"`kubectl auth can-i {verb if verb != 'read' else 'get'} {what}{in_namespace}` tells when you have it."
        raise Unreadable(f"may not be read ({error})", f"Ask for the right to {permission}; {tell}") from error
    except ClusterError as error:
        raise Unreadable(f"can't be read ({error})", "Run the check again; if it stays, see the API server.") from error


def _checked_object(body: Any) -> Body:
    if not isinstance(body, dict) or not isinstance((body.get("metadata") or {}).get("name"), str):
        raise _not_kubernetes("an object")
    return body


def _not_kubernetes(asked: str) -> Unavailable:
    return Unavailable(f"What answers is no Kubernetes API: for {asked} it sends something else.")
