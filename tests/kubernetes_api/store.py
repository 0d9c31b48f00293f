"""The storage of the API in the test process: objects, their owners, and the changes for watches."""

from __future__ import annotations

import copy
import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import status_errors
from .kinds import Kind
from .managed_fields import FieldConflict, ManagedFields, Manager
from .schemas import Schemas

__all__ = ["Change", "Store", "Write"]

Body = dict[str, Any]
Place = tuple[str, str]

# Set by the server once; a writer's own values of these don't count.
SERVER_SET_FIELDS = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
)
NAME_CHARACTERS = "bcdfghjklmnpqrstvwxz2456789"


class Write(NamedTuple):
    """How to write. `strict`: an unknown field refuses the write, else it is dropped."""

    manager: str
    dry_run: bool = False
    strict: bool = False
    subresource: str = ""


class Change(NamedTuple):
    """One entry of the history; `before` is None for an object that is new."""

    version: int
    kind: Kind
    type: str
    body: Body
    before: Body | None


@dataclass
class _Entry:
    kind: Kind
    body: Body
    owners: ManagedFields

    @property
    def place(self) -> Place:
        return self.body["metadata"].get("namespace", ""), self.body["metadata"]["name"]


@dataclass
class Store:
    """Objects of all kinds, under one lock and one increasing resourceVersion."""

    schemas: Schemas
    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 1
    _oldest: int = 0
    _history: list[Change] = field(default_factory=list)
    _entries: defaultdict[tuple[str, str], dict[Place, _Entry]] = field(default_factory=lambda: defaultdict(dict))

    def read(self, kind: Kind, place: Place) -> Body:
        """One object, at the version of the kind. StatusError: 404."""
        with self.changed:
            return self._at(self._entry(kind, place).body, kind)

    def all(self, kind: Kind, namespace: str) -> tuple[int, list[Body]]:
        """(version, every object in the order of names); `namespace` empty: of all of them."""
        with self.changed:
            found = [e for place, e in sorted(self._entries[kind.store].items()) if namespace in ("", place[0])]
            return self.version, [self._at(entry.body, kind) for entry in found]

    def create(self, kind: Kind, namespace: str, body: Body, write: Write) -> Body:
        """A new object as stored. StatusError: 400, 404 (namespace), 409, 422."""
        with self.changed:
            new = copy.deepcopy(body)
            metadata = new.setdefault("metadata", {})
            if metadata.get("generateName") and not metadata.get("name"):
                metadata["name"] = metadata["generateName"] + "".join(random.choices(NAME_CHARACTERS, k=5))
            if metadata.get("resourceVersion"):
                raise status_errors.bad_request("resourceVersion should not be set on objects to be created")
            if (namespace, metadata.get("name", "")) in self._entries[kind.store]:
                raise status_errors.already_exists(kind, metadata["name"])
            return self._create(kind, namespace, new, write, None)

    def update(self, kind: Kind, place: Place, change: Callable[[Body], Body], write: Write) -> Body:
        """The object after a change of it, as stored. StatusError: 400, 404, 409, 422."""
        with self.changed:
            entry = self._entry(kind, place)
            old = self._at(entry.body, kind)
            return self._replace(entry, kind, change(copy.deepcopy(old)), write, None)

    def apply(self, kind: Kind, place: Place, body: Body, write: Write, *, force: bool) -> tuple[Body, bool]:
        """(the object after a server-side apply, whether it is new). StatusError: as with both above."""
        with self.changed:
            manager = Manager(write.manager, "Apply", write.subresource)
            wanted = {
                key: value for key, value in body.items() if key != "status" or write.subresource or not kind.status
            }
            if unknown := self.schemas.prune(copy.deepcopy(wanted)):
                raise status_errors.typed_patch_failure(kind, place, unknown)
            entry = self._entries[kind.store].get(place)
            if entry is None:
                owners = ManagedFields(self.schemas, self.schemas.schema(body))
                own = owners.apply({"apiVersion": kind.api_version}, wanted, manager, force=force)[1]
                return self._create(kind, place[0], copy.deepcopy(wanted), write, own), True
            old = self._at(entry.body, kind)
            self._check_current(kind, old, body)
            try:
                new, own = entry.owners.apply(old, wanted, manager, force=force)
            except FieldConflict as taken:
                raise status_errors.StatusError(
                    409, "Conflict", taken.message(), {"causes": list(taken.causes())}
                ) from taken
            return self._replace(entry, kind, new, write, own), False

    def delete(self, kind: Kind, place: Place, options: Body, *, dry_run: bool = False) -> Body:
        """The object as it was, or as it waits for its finalizers. StatusError: 404, 409 (preconditions)."""
        with self.changed:
            entry = self._entry(kind, place)
            for key, wanted in (options.get("preconditions") or {}).items():
                if entry.body["metadata"].get(key) != wanted:
                    why = f"Precondition failed: {key} in precondition: {wanted}, in object: {entry.body['metadata'][key]}"
                    raise status_errors.conflict(kind, place[1], why)
            if dry_run:
                return self._at(entry.body, kind)
            return self._at(self._delete(entry, options.get("propagationPolicy", "Background")), kind)

    def expire(self) -> None:
        """Forget the history: every watch and every continued list must start over (410)."""
        with self.changed:
            self.version += 1
            self._oldest = self.version
            self._history.clear()
            self.changed.notify_all()

    def check(self, version: int) -> None:
        """StatusError (410): what followed `version` isn't remembered."""
        if version < self._oldest:
            raise status_errors.expired(f"too old resource version: {version} ({self._oldest})")

    def since(self, version: int, seconds: float) -> list[Change]:
        """What followed `version`; waits for it so long at most. StatusError: 410."""
        with self.changed:
            if self.version <= version:
                self.changed.wait(seconds)
            self.check(version)
            first = next((i for i in range(len(self._history), 0, -1) if self._history[i - 1].version <= version), 0)
            return self._history[first:]

    def _entry(self, kind: Kind, place: Place) -> _Entry:
        entry = self._entries[kind.store].get(place)
        if entry is None:
            raise status_errors.not_found(kind, place[1])
        return entry

    def _at(self, body: Body, kind: Kind) -> Body:
        return {**copy.deepcopy(body), "apiVersion": kind.api_version, "kind": kind.name}

    def _create(self, kind: Kind, namespace: str, new: Body, write: Write, own: Any) -> Body:
        self._check_creatable(kind, namespace, new)
        metadata = new["metadata"]
        for key in (*SERVER_SET_FIELDS[2:], "managedFields", "resourceVersion"):
            metadata.pop(key, None)
        metadata.update(uid=str(uuid.uuid4()), creationTimestamp=_now())
        if kind.namespaced:
            metadata["namespace"] = namespace
        if kind.grows:
            metadata["generation"] = 1
        if kind.status:
            new.pop("status", None)
        if kind.store == ("", "namespaces"):
            metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
            new["status"] = {"phase": "Active"}
        self._admit(kind, new, None, write)
        owners = ManagedFields(self.schemas, self.schemas.schema(new))
        owners.record_write({}, new, _manager(write, own), own)
        entry = _Entry(kind, new, owners)
        return new if write.dry_run else self._at(self._record(entry, "ADDED", None), kind)

    def _check_creatable(self, kind: Kind, namespace: str, new: Body) -> None:
        """Whether an object may come to be there."""
        name = new["metadata"].get("name")
        if not name:
            raise status_errors.invalid(kind, "", ["metadata.name: name or generateName is required"])
        if not kind.namespaced:
            return
        there = self._entries["", "namespaces"].get(("", namespace))
        if there is None:
            message = f'namespaces "{namespace}" not found'
            raise status_errors.StatusError(404, "NotFound", message, {"name": namespace, "kind": "namespaces"})
        if "deletionTimestamp" in there.body["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise status_errors.forbidden(kind, name, why)

    def _check_current(self, kind: Kind, old: Body, new: Body) -> None:
        """StatusError: the writer saw another state of the object, or another object."""
        for key in ("resourceVersion", "uid"):
            wanted = new.get("metadata", {}).get(key)
            if wanted and wanted != old["metadata"][key]:
                why = "the object has been modified; please apply your changes to the latest version and try again"
                raise status_errors.conflict(kind, old["metadata"]["name"], why)

    def _replace(self, entry: _Entry, kind: Kind, new: Body, write: Write, own: Any) -> Body:
        old = self._at(entry.body, kind)
        self._check_current(kind, old, new)
        new = _split_status(kind, old, new, write.subresource)
        self._admit(kind, new, old, write)
        owners = entry.owners.copy()
        owners.record_write(old, new, _manager(write, own), own)
        if kind.grows and _desired_state(new) != _desired_state(old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        new["metadata"]["managedFields"] = old["metadata"].get("managedFields", [])
        if new == old and owners.paths == entry.owners.paths:
            return old
        if write.dry_run:
            return new
        changed = _Entry(entry.kind, {**new, "apiVersion": entry.body["apiVersion"]}, owners)
        if "deletionTimestamp" in old["metadata"] and not new["metadata"].get("finalizers"):
            return self._at(self._remove(changed), kind)
        return self._at(self._record(changed, "MODIFIED", entry.body), kind)

    def _admit(self, kind: Kind, new: Body, old: Body | None, write: Write) -> None:
        """Set defaults, drop or refuse what is unknown, refuse what is wrong."""
        name = new["metadata"]["name"]
        if (unknown := self.schemas.prune(new)) and write.strict:
            said = ", ".join(f'unknown field "{path}"' for path in unknown)
            raise status_errors.bad_request(
                f'{kind.name} in version "{kind.version}" cannot be handled: strict decoding error: {said}'
            )
        if kind.custom:
            self.schemas.fill(new)
        if kind.scale and not kind.custom:
            new.get("spec", {}).setdefault("replicas", 1)
        if faults := self.schemas.faults(new, old):
            raise status_errors.invalid(kind, name, faults)

    def _record(self, entry: _Entry, type_: str, before: Body | None) -> Body:
        """Number, remember and tell a state; returns it."""
        self.version += 1
        entry.body["metadata"]["resourceVersion"] = str(self.version)
        if type_ != "DELETED":
            entry.body["metadata"]["managedFields"] = entry.owners.to_managed_fields(entry.body["apiVersion"], _now())
            self._entries[entry.kind.store][entry.place] = entry
        self._history.append(Change(self.version, entry.kind, type_, copy.deepcopy(entry.body), before))
        self.changed.notify_all()
        return entry.body

    def _delete(self, entry: _Entry, propagation: str) -> Body:
        metadata = entry.body["metadata"]
        waits = bool(metadata.get("finalizers"))
        if entry.kind.store == ("", "namespaces"):
            for other in [e for e in self._all_entries() if e.body["metadata"].get("namespace") == metadata["name"]]:
                self._delete(other, "Orphan")
            waits = waits or self._has_objects(metadata["name"])
        if propagation == "Orphan":
            self._orphan(metadata["uid"])
        if not waits:
            return self._remove(entry)
        if "deletionTimestamp" in metadata:
            return entry.body
        before = copy.deepcopy(entry.body)
        metadata.update(deletionTimestamp=_now(), deletionGracePeriodSeconds=0)
        if entry.kind.grows:
            metadata["generation"] += 1
        return self._record(entry, "MODIFIED", before)

    def _remove(self, entry: _Entry) -> Body:
        """Take it out, then what only it owned, then its namespace where that waited for it."""
        if self._entries[entry.kind.store].pop(entry.place, None) is None:
            return entry.body
        body = self._record(entry, "DELETED", copy.deepcopy(entry.body))
        uid = body["metadata"]["uid"]
        for other in [e for e in self._all_entries() if uid in _owners_of(e.body)]:
            if not any(each in self._uids() for each in _owners_of(other.body)):
                self._delete(other, "Background")
        namespace = self._entries["", "namespaces"].get(("", body["metadata"].get("namespace", "")))
        if (
            namespace
            and "deletionTimestamp" in namespace.body["metadata"]
            and not self._has_objects(namespace.body["metadata"]["name"])
        ):
            self._remove(namespace)
        return body

    def _orphan(self, uid: str) -> None:
        for entry in [e for e in self._all_entries() if uid in _owners_of(e.body)]:
            before = copy.deepcopy(entry.body)
            kept = [each for each in entry.body["metadata"]["ownerReferences"] if each["uid"] != uid]
            entry.body["metadata"]["ownerReferences"] = kept
            self._record(entry, "MODIFIED", before)

    def _all_entries(self) -> Iterator[_Entry]:
        return (entry for entries in list(self._entries.values()) for entry in list(entries.values()))

    def _uids(self) -> set[str]:
        return {entry.body["metadata"]["uid"] for entry in self._all_entries()}

    def _has_objects(self, namespace: str) -> bool:
        return any(entry.body["metadata"].get("namespace") == namespace for entry in self._all_entries())


def _manager(write: Write, own: Any) -> Manager:
    return Manager(write.manager, "Update" if own is None else "Apply", write.subresource)


def _split_status(kind: Kind, old: Body, new: Body, subresource: str) -> Body:
    """Status apart: the main path never changes it, its own path changes nothing else."""
    if subresource == "status":
        return {**copy.deepcopy(old), **({"status": new["status"]} if "status" in new else {})}
    kept = {key: old["metadata"][key] for key in SERVER_SET_FIELDS if key in old["metadata"]}
    metadata = {key: value for key, value in new.get("metadata", {}).items() if key not in SERVER_SET_FIELDS}
    divided = {**new, "metadata": {**metadata, **kept}, "apiVersion": old["apiVersion"], "kind": old["kind"]}
    if kind.status:
        divided.pop("status", None)
        divided.update({"status": old["status"]} if "status" in old else {})
    return divided


def _desired_state(body: Body) -> Body:
    return {key: value for key, value in body.items() if key not in ("metadata", "status")}


def _owners_of(body: Body) -> list[str]:
    return [each["uid"] for each in body["metadata"].get("ownerReferences") or ()]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
