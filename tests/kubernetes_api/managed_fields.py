"""Field ownership in server-side apply: the paths that each manager set."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .patches import keys_of, merge_by_keys
from .schemas import Schemas

__all__ = ["FieldConflict", "ManagedFields", "Manager"]

# A step is what metadata.managedFields writes: `f:replicas`, `k:{"name":"a"}` (an item of a list), `v:"x"` (of a set).
Path = tuple[str, ...]

# The server's own; a client that sends them owns nothing by it.
UNMANAGED = {
    ("f:apiVersion",),
    ("f:kind",),
    *(
        (("f:metadata", f"f:{key}"))
        for key in (
            "name",
            "namespace",
            "generateName",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "managedFields",
            "selfLink",
        )
    ),
}


class Manager(NamedTuple):
    """Who wrote, how (Apply or Update), and through which subresource."""

    name: str
    operation: str
    subresource: str = ""


@dataclass
class FieldConflict(Exception):
    """Fields that an apply would change though others own them."""

    by: dict[Path, Manager]
    api_version: str

    def causes(self) -> Iterator[dict[str, Any]]:
        """As in a Status."""
        for path, manager in self.by.items():
            yield {"reason": "FieldManagerConflict", "message": self._said(manager), "field": _dotted(path)}

    def message(self) -> str:
        """As a server words it."""
        causes = [f"{each['message']}: {each['field']}" for each in self.causes()]
        return f"Apply failed with {len(causes)} conflict{'s' * (len(causes) > 1)}: {'; '.join(causes)}"

    def _said(self, manager: Manager) -> str:
        through = f" with subresource {json.dumps(manager.subresource)}" if manager.subresource else ""
        version = f" using {self.api_version}" if manager.operation == "Update" else ""
        return f'conflict with "{manager.name}"{through}{version}'


@dataclass
class ManagedFields:
    """The owners of one object's fields."""

    schemas: Schemas
    schema: dict[str, Any]
    paths: dict[Manager, frozenset[Path]] = field(default_factory=dict)

    def apply(
        self, live: dict[str, Any], patch: dict[str, Any], manager: Manager, *, force: bool
    ) -> tuple[dict[str, Any], frozenset[Path]]:
        """(the object after the apply, the paths that the manager has now). FieldConflict: others own what would change."""
        wanted = dict(self._leaves(patch))
        present = dict(self._leaves(live))
        taken = {
            path: other
            for path, value in wanted.items()
            if path not in present or present[path] != value
            for other, theirs in self.paths.items()
            if other != manager and path in theirs
        }
        if taken and not force:
            raise FieldConflict(taken, live["apiVersion"])
        left = self.paths.get(manager, frozenset()) - wanted.keys()
        others = frozenset().union(*(theirs for other, theirs in self.paths.items() if other != manager))
        # A field that is gone from the body goes, unless another owns it, or something in it.
        dropped = {path for path in left if not any(each[: len(path)] == path for each in {*others, *wanted})}
        merged = merge_by_keys(self.schemas, self.schema, _without(live, (), dropped), patch)
        return merged, frozenset(wanted)

    def record_write(
        self, before: dict[str, Any], after: dict[str, Any], manager: Manager, own: frozenset[Path] | None
    ) -> None:
        """Set the owners after a write. `own`: the fields of an apply; None: the manager owns the changed fields."""
        old, new = dict(self._leaves(before)), dict(self._leaves(after))
        changed = frozenset(path for path, value in new.items() if path not in old or old[path] != value)
        for other, theirs in self.paths.items():
            self.paths[other] = (theirs if other == manager else theirs - changed) & new.keys()
        mine = self.paths.get(manager, frozenset()) | changed if own is None else own
        self.paths[manager] = mine
        self.paths = {each: paths for each, paths in self.paths.items() if paths}

    def to_managed_fields(self, api_version: str, when: str) -> list[dict[str, Any]]:
        """`metadata.managedFields`."""
        return [
            {
                "manager": manager.name,
                "operation": manager.operation,
                "apiVersion": api_version,
                "time": when,
                "fieldsType": "FieldsV1",
                "fieldsV1": _tree(paths),
                **({"subresource": manager.subresource} if manager.subresource else {}),
            }
            for manager, paths in self.paths.items()
        ]

    def copy(self) -> ManagedFields:
        """One that can be written to without this one."""
        return ManagedFields(self.schemas, self.schema, dict(self.paths))

    def _leaves(self, body: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
        for path, value in self._paths(self.schema, body, ()):
            if path not in UNMANAGED and path[:2] not in UNMANAGED:
                yield path, value

    def _paths(self, schema: dict[str, Any], value: Any, at: Path) -> Iterator[tuple[Path, Any]]:
        """Every path that can be owned: values, and items of lists that are maps or sets."""
        keys = keys_of(schema)
        if isinstance(value, dict) and value and schema.get("x-kubernetes-map-type") != "atomic":
            for key, child in value.items():
                yield from self._paths(self.schemas.child(schema, key), child, (*at, f"f:{key}"))
        elif isinstance(value, list) and keys:
            for item in value:
                here = (*at, "k:" + json.dumps({key: item.get(key) for key in keys}, separators=(",", ":")))
                yield here, None
                yield from self._paths(self.schemas.child(schema, 0), item, here)
        elif isinstance(value, list) and schema.get("x-kubernetes-list-type") == "set":
            yield from (((*at, "v:" + json.dumps(item)), None) for item in value)
        elif at:
            yield at, value


def _without(value: Any, at: Path, dropped: set[Path]) -> Any:
    """The value without the paths; what holds nothing any more goes too."""
    if not any(path[: len(at)] == at for path in dropped):
        return copy.deepcopy(value)
    if isinstance(value, dict):
        kept = {k: _without(v, (*at, f"f:{k}"), dropped) for k, v in value.items() if (*at, f"f:{k}") not in dropped}
        return {k: v for k, v in kept.items() if v not in ({}, []) or value[k] == v}
    steps = {path[len(at)] for path in dropped if len(path) > len(at)}
    kept_items = []
    for item in value:
        step = next((each for each in steps if _is(each, item)), "")
        if (*at, step) not in dropped:
            kept_items.append(_without(item, (*at, step), dropped))
    return kept_items


def _is(step: str, item: Any) -> bool:
    if step.startswith("k:"):
        return all(item.get(key) == value for key, value in json.loads(step[2:]).items())
    return step == "v:" + json.dumps(item)


def _dotted(path: Path) -> str:
    """`.spec.env[name="A"].value`, as conflicts name a field."""
    shown = ""
    for step in path:
        sort, text = step[:2], step[2:]
        if sort == "f:":
            shown += f".{text}"
        elif sort == "k:":
            shown += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(text).items()) + "]"
        else:
            shown += f"[={text}]"
    return shown


def _tree(paths: frozenset[Path]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path in sorted(paths):
        node = root
        for step in path:
            node = node.setdefault(step, {})
        if path[-1].startswith("k:"):
            node["."] = {}
    return root
