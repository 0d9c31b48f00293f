"""The paths and verbs of the API over the store: one `Request` in, one response or a stream of lines out."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from . import status_errors
from .discovery import document
from .kinds import Kind
from .patches import BadPatch, json_patch, merge_by_keys, merge_patch
from .selectors import selector, value_at
from .status_errors import StatusError
from .store import Body, Store, Write
from .watch_stream import watch_lines

__all__ = ["Api", "Request"]

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}
# What the core types are merged by, and custom ones never.
STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True)
class Request:
    """A request as received. `agent` is the User-Agent: without a fieldManager, its first word owns the fields."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    media: str = "application/json"
    agent: str = "unknown"


class _Target(NamedTuple):
    kind: Kind
    namespace: str
    name: str
    subresource: str

    @property
    def place(self) -> tuple[str, str]:
        return self.namespace, self.name


Answer = tuple[int, Body | Iterator[bytes]]


class Api:
    """An API of these kinds. `forbidden` holds `verb plural` pairs that are refused, as RBAC would."""

    def __init__(self, store: Store, kinds: list[Kind]) -> None:
        self.store = store
        self.kinds = kinds
        self.forbidden: set[str] = set()
        self._by_path = {(each.api_version, each.plural): each for each in kinds}
        for name in ("default", "kube-system"):
            store.create(self._by_path["v1", "namespaces"], "", _namespace(name), Write("kube-apiserver"))

    def answer(self, request: Request) -> Answer:
        """(code, body), or (200, lines) of a watch. StatusError: anything but a success."""
        if request.method == "GET" and (found := document(self.kinds, request.path)):
            return 200, found
        target = self._target(request.path)
        self._permit(request, target)
        if target.subresource == "scale":
            return self._scale(request, target)
        if target.name:
            return self._object(request, target)
        return self._collection(request, target)

    def _target(self, path: str) -> _Target:
        root, *parts = path.strip("/").split("/")
        size = 1 if root == "api" else 2
        version, rest = "/".join(parts[:size]), parts[size:]
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = (*rest, "", "", "")[:3]
        kind = self._by_path.get((version, plural))
        if kind is None or root not in ("api", "apis") or len(rest) > 3 or not self._has(kind, subresource):
            raise status_errors.no_such_resource()
        if bool(namespace) and not kind.namespaced:
            raise status_errors.no_such_resource()
        return _Target(kind, namespace, name, subresource)

    def _has(self, kind: Kind, subresource: str) -> bool:
        return {"": True, "status": kind.status, "scale": kind.scale is not None}.get(subresource, False)

    def _permit(self, request: Request, target: _Target) -> None:
        verb = VERBS.get(request.method, "")
        if verb == "get" and not target.name:
            verb = "watch" if request.query.get("watch") in ("true", "1") else "list"
        if f"{verb} {target.kind.plural}" in self.forbidden:
            who = 'User "system:serviceaccount:test:test" cannot'
            raise status_errors.forbidden(target.kind, target.name, f"{who} {verb} resource {target.kind.plural!r}")

    def _collection(self, request: Request, target: _Target) -> Answer:
        if request.method == "GET":
            if request.query.get("watch") in ("true", "1"):
                return 200, self._watch(request, target)
            return 200, self._list(request, target)
        if request.method == "DELETE":
            wanted = self._wanted(request, target)
            for body in self.store.all(target.kind, target.namespace)[1]:
                if wanted(body):
                    place = body["metadata"].get("namespace", ""), body["metadata"]["name"]
                    self.store.delete(target.kind, place, _options(request), dry_run=_write(request, target).dry_run)
            return 200, _success({})
        if request.method != "POST" or (target.kind.namespaced and not target.namespace):
            raise status_errors.not_allowed()
        body = self._read(request, target)
        return 201, self.store.create(target.kind, target.namespace, body, _write(request, target))

    def _object(self, request: Request, target: _Target) -> Answer:
        kind, place = target.kind, target.place
        write = _write(request, target)
        if request.method == "GET":
            return 200, self.store.read(kind, place)
        if request.method == "PUT":
            body = self._read(request, target)
            return 200, self.store.update(kind, place, lambda _: body, write)
        if request.method == "PATCH" and request.media == "application/apply-patch+yaml":
            if not request.query.get("fieldManager"):
                raise StatusError(
                    422, "Invalid", "PatchOptions.meta.k8s.io is invalid: fieldManager: is required for apply patch"
                )
            force = request.query.get("force") == "true"
            applied, new = self.store.apply(kind, place, self._read(request, target), write, force=force)
            return 201 if new else 200, applied
        if request.method == "PATCH":
            return 200, self.store.update(kind, place, self._patch(request, kind), write)
        if request.method == "DELETE" and not target.subresource:
            gone = self.store.delete(kind, place, _options(request), dry_run=write.dry_run)
            return 200, gone if "deletionTimestamp" in gone["metadata"] else _success(_details(kind, gone))
        raise status_errors.not_allowed()

    def _patch(self, request: Request, kind: Kind) -> Callable[[Body], Body]:
        patch = _parsed(request)
        if request.media == "application/merge-patch+json":
            return lambda old: merge_patch(old, patch)
        if request.media == "application/json-patch+json":
            return lambda old: _apply_json_patch(kind, old, patch)
        if request.media == STRATEGIC and not kind.custom:
            schemas = self.store.schemas
            return lambda old: merge_by_keys(schemas, schemas.schema(old), old, patch)
        raise status_errors.unsupported(request.media)

    def _scale(self, request: Request, target: _Target) -> Answer:
        kind, (wanted_path, present_path) = target.kind, target.kind.scale or ("", "")

        def shown(body: Body) -> Body:
            kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
            wanted, present = (value_at(body, path) or 0 for path in (wanted_path, present_path))
            return {
                "kind": "Scale",
                "apiVersion": "autoscaling/v1",
                "metadata": {key: body["metadata"][key] for key in kept},
                "spec": {"replicas": wanted},
                "status": {"replicas": present},
            }

        def scaled(body: Body) -> Body:
            new = _parsed(request) if request.method == "PUT" else self._patch(request, kind)(shown(body))
            replicas = new.get("spec", {}).get("replicas", 0)
            if not isinstance(replicas, int) or replicas < 0:
                raise status_errors.invalid(kind, target.name, [f"spec.replicas: Invalid value: {replicas!r}"])
            patch: Body = {"metadata": {"resourceVersion": new["metadata"].get("resourceVersion")}}
            patch["spec"] = {wanted_path.removeprefix("spec."): replicas}
            changed: Body = merge_patch(body, patch)
            return changed

        if request.method == "GET":
            return 200, shown(self.store.read(kind, target.place))
        if request.method not in ("PUT", "PATCH"):
            raise status_errors.not_allowed()
        return 200, shown(self.store.update(kind, target.place, scaled, _write(request, target)))

    def _read(self, request: Request, target: _Target) -> Body:
        """The object in the body. StatusError (400): it isn't one, or isn't of this path."""
        body = _parsed(request)
        kind = target.kind
        if not isinstance(body, dict):
            raise status_errors.bad_request("the body is no object")
        for key, wanted in (("apiVersion", kind.api_version), ("kind", kind.name)):
            if body.setdefault(key, wanted) != wanted:
                raise status_errors.bad_request(
                    f"the {key} in the data ({body[key]}) does not match the expected one ({wanted})"
                )
        metadata = body.setdefault("metadata", {})
        for key, wanted in (("namespace", target.namespace), ("name", target.name)):
            if wanted and metadata.setdefault(key, wanted) != wanted:
                raise status_errors.bad_request(
                    f"the {key} of the provided object does not match the {key} sent on the request: {metadata[key]}"
                )
        return body

    def _wanted(self, request: Request, target: _Target) -> Callable[[Body], bool]:
        query = request.query
        return selector(target.kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))

    def _list(self, request: Request, target: _Target) -> Body:
        version, found = self.store.all(target.kind, target.namespace)
        wanted = self._wanted(request, target)
        items = [body for body in found if wanted(body)]
        metadata: Body = {"resourceVersion": str(version)}
        if token := request.query.get("continue"):
            began, last = json.loads(base64.urlsafe_b64decode(token))
            self.store.check(began)
            items = [body for body in items if _place(body) > last]
            metadata["resourceVersion"] = str(began)
        limit = int(request.query.get("limit") or 0)
        if limit and len(items) > limit:
            began = int(metadata["resourceVersion"])
            mark = json.dumps([began, _place(items[limit - 1])]).encode()
            metadata["continue"] = base64.urlsafe_b64encode(mark).decode()
            metadata["remainingItemCount"] = len(items) - limit
        shown = items[:limit] if limit else items
        kind = f"{target.kind.name}List"
        return {"kind": kind, "apiVersion": target.kind.api_version, "metadata": metadata, "items": shown}

    def _watch(self, request: Request, target: _Target) -> Iterator[bytes]:
        """Lines of a watch; an empty line at each pause, so that a disconnect is noticed."""
        return watch_lines(self.store, target.kind, target.namespace, self._wanted(request, target), request.query)


def _namespace(name: str) -> Body:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _write(request: Request, target: _Target) -> Write:
    query = request.query
    manager = query.get("fieldManager") or request.agent.partition("/")[0]
    subresource = target.subresource
    return Write(manager, query.get("dryRun") == "All", query.get("fieldValidation") == "Strict", subresource)


def _options(request: Request) -> Body:
    options: Body = _parsed(request) if request.body else {}
    if asked := request.query.get("propagationPolicy"):
        options["propagationPolicy"] = asked
    return options


def _parsed(request: Request) -> Any:
    if request.media.endswith("protobuf"):
        raise status_errors.unsupported(request.media)
    try:
        return json.loads(request.body)
    except ValueError:
        if "yaml" not in request.media:
            raise status_errors.bad_request("the object provided is unrecognized: it is no JSON") from None
        return yaml.safe_load(request.body)


def _apply_json_patch(kind: Kind, old: Body, patch: Any) -> Body:
    try:
        patched: Body = json_patch(old, patch)
    except BadPatch as error:
        raise StatusError(422, "Invalid", str(error)) from error
    return patched


def _place(body: Body) -> list[str]:
    return [body["metadata"].get("namespace", ""), body["metadata"]["name"]]


def _details(kind: Kind, gone: Body) -> Body:
    metadata = gone["metadata"]
    return {"name": metadata["name"], "group": kind.group, "kind": kind.plural, "uid": metadata["uid"]}


def _success(details: Body) -> Body:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
