"""What a cluster says of itself, read once and side by side.

Reads begin when the first of them is asked for by name in `ahead`, and end where a check asks for the answer; so a
cluster far away costs a few round trips, not one for each check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from llmariner.diagnostics.result import Body, Unreadable
from llmariner.errors import Unavailable
from llmariner.platform.kube import Cluster, Resource
from llmariner.platform.kube.errors import ClusterError, Forbidden, NotFound

__all__ = ["Reading", "condition", "labels", "ready", "spec", "status"]

_TOGETHER = 8


class Reading:
    """One look at a cluster: whatever is asked twice has the same answer.

    Each question raises Unreadable where the rights don't reach, Unavailable where the server doesn't answer, or
    answers with something that no Kubernetes API says.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pool = ThreadPoolExecutor(_TOGETHER, "reading")
        self._answers: dict[tuple[Any, ...], Future[Any]] = {}

    def ahead(self, listed: Iterable[tuple[Resource, str | None]], api_versions: Iterable[str] = ()) -> None:
        """Begin to read these kinds in their namespaces (None: all), and which kinds are served at these versions."""
        for api_version in api_versions:
            self._kinds(api_version)
        for resource, namespace in listed:
            self._list(resource, namespace)

    def version(self) -> str:
        """The server's, such as `v1.34.2`."""
        answer = self._document("/version")
        return str(answer.get("gitVersion") or "") if answer else ""

    def kinds(self, api_version: str) -> frozenset[str]:
        """The kinds that are served at this version, such as `serving.knative.dev/v1`; empty where it isn't served."""
        answer = _answer(self._kinds(api_version), f"read /apis/{api_version}", None) or {}
        return frozenset(str(each.get("kind")) for each in answer.get("resources") or () if isinstance(each, dict))

    def versions(self, group: str) -> list[str]:
        """The versions that an API group is served at; empty where there is no such group."""
        groups = (self._document("/apis") or {}).get("groups") or ()
        found: Body = next((each for each in groups if each.get("name") == group), {})
        return [str(each.get("version")) for each in found.get("versions") or ()]

    def all(self, resource: Resource, namespace: str | None = None) -> list[Body]:
        """The objects of a kind; none where the cluster doesn't have the kind."""
        found: list[Body] = _answer(self._list(resource, namespace), f"list {_full(resource)}", namespace) or []
        return found

    def one(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        """An object of a kind that is listed anyway, or None."""
        return next((each for each in self.all(resource, namespace) if each["metadata"]["name"] == name), None)

    def get(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        """An object alone, or None."""
        key = ("get", resource, namespace, name)
        found: Body | None = _answer(self._asked(key, lambda: self._got(resource, namespace, name)),
                                     f"get {_full(resource)}", namespace)  # fmt: skip
        return found

    def close(self) -> None:
        """Ask nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _document(self, path: str) -> Body | None:
        found: Body | None = _answer(self._asked((path,), lambda: self._cluster.get_raw(path)), f"read {path}", None)
        return found

    def _kinds(self, api_version: str) -> Future[Any]:
        root = "apis" if "/" in api_version else "api"
        return self._asked((api_version,), lambda: self._cluster.get_raw(f"/{root}/{api_version}"))

    def _list(self, resource: Resource, namespace: str | None) -> Future[Any]:
        return self._asked(("list", resource, namespace), lambda: self._listed(resource, namespace))

    def _listed(self, resource: Resource, namespace: str | None) -> list[Body]:
        try:
            return [_object(each) for each in self._cluster.list(resource, namespace).items]
        except (KeyError, TypeError, AttributeError) as error:
            raise _no_kubernetes(resource.path(namespace)) from error

    def _got(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        found = self._cluster.get(resource, namespace, name)
        return None if found is None else _object(found)

    def _asked(self, key: tuple[Any, ...], ask: Callable[[], Any]) -> Future[Any]:
        if key not in self._answers:
            self._answers[key] = self._pool.submit(ask)
        return self._answers[key]


def spec(body: Body) -> Body:
    """Its `spec`, or an empty one."""
    found: Body = body.get("spec") or {}
    return found


def status(body: Body) -> Body:
    """Its `status`, or an empty one: its controller has not seen it yet."""
    found: Body = body.get("status") or {}
    return found


def labels(body: Body) -> dict[str, str]:
    """Its labels."""
    found: dict[str, str] = body["metadata"].get("labels") or {}
    return found


def condition(holder: Body, kind: str) -> Body:
    """The condition of a type in a `status` (or in what has `conditions` as one has); empty where it isn't told."""
    found: Body = next((each for each in holder.get("conditions") or () if each.get("type") == kind), {})
    return found


def ready(body: Body, kind: str = "Ready") -> str:
    """Empty when the object's condition of this type holds, else why not, in its controller's words."""
    found = condition(status(body), kind)
    if found.get("status") == "True":
        return ""
    words = [str(found[key]) for key in ("reason", "message") if found.get(key)]
    return ": ".join(words) or ("not yet" if found else "no controller has looked at it")


def _full(resource: Resource) -> str:
    """As rights name it: `services.serving.knative.dev` is not `services`."""
    group = resource.api_version.rpartition("/")[0]
    return f"{resource.plural}.{group}" if group else resource.plural


def _answer(asked: Future[Any], right: str, namespace: str | None) -> Any:
    try:
        return asked.result()
    except NotFound:
        return None
    except Forbidden as error:
        place = f" -n {namespace}" if namespace else ""
        verb, _, what = right.partition(" ")
        tell = f"`kubectl auth can-i {verb if verb != 'read' else 'get'} {what}{place}` tells when you have it."
        raise Unreadable(f"may not be read ({error})", f"Ask for the right to {right}; {tell}") from error
    except ClusterError as error:
        raise Unreadable(f"can't be read ({error})", "Run the check again; if it stays, see the API server.") from error


def _object(body: Any) -> Body:
    if not isinstance(body, dict) or not isinstance((body.get("metadata") or {}).get("name"), str):
        raise _no_kubernetes("an object")
    return body


def _no_kubernetes(asked: str) -> Unavailable:
    return Unavailable(f"What answers is no Kubernetes API: for {asked} it sends something else.")
