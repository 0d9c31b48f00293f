"""Patches: JSON merge patch, JSON patch, and the merge by keys that apply and kubectl use."""

from __future__ import annotations

import copy
from typing import Any

from .schemas import Schemas

__all__ = ["BadPatch", "json_patch", "keys_of", "merge_by_keys", "merge_patch"]


class BadPatch(Exception):
    """The patch can't be carried out on this object."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def json_patch(target: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902. BadPatch where a path isn't there, or a test fails."""
    document = {"": copy.deepcopy(target)}
    for each in operations:
        try:
            _operate(document, each)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BadPatch(f"{each.get('op')} operation does not apply: {each.get('path')}: {error!r}") from error
    return document[""]


def _operate(document: Any, operation: dict[str, Any]) -> None:
    kind, parent, last = operation["op"], *_parent(document, operation["path"])
    if kind == "test":
        if parent[last] != operation["value"]:
            raise ValueError("testing value failed")
        return
    if kind in ("move", "copy"):
        source, name = _parent(document, operation["from"])
        value = copy.deepcopy(source[name])
        if kind == "move":
            del source[name]
            parent, last = _parent(document, operation["path"])
    elif kind in ("add", "replace"):
        value = operation["value"]
    elif kind == "remove":
        del parent[last]
        return
    else:
        raise ValueError(f"unknown operation {kind}")
    if isinstance(parent, list) and kind != "replace":
        parent.insert(len(parent) if last == "-" else last, value)
        return
    if kind == "replace":
        parent[last]
    parent[last] = value


def _parent(document: Any, pointer: str) -> tuple[Any, Any]:
    """The container in which a JSON pointer ends, and the key or index in it."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")]
    for step in steps[:-1]:
        document = document[int(step) if isinstance(document, list) else step]
    last = steps[-1]
    return document, int(last) if isinstance(document, list) and last != "-" else last


def keys_of(schema: dict[str, Any]) -> tuple[str, ...]:
    """The keys that identify the items of a list; none: the list is changed as a whole."""
    if schema.get("x-kubernetes-list-type") == "map":
        return tuple(schema.get("x-kubernetes-list-map-keys", ()))
    # Written so where a list was merged before list types were known (core kinds).
    key = schema.get("x-kubernetes-patch-merge-key")
    return (key,) if key and schema.get("x-kubernetes-patch-strategy", "").startswith("merge") else ()


def merge_by_keys(schemas: Schemas, schema: dict[str, Any], target: Any, patch: Any) -> Any:
    """The patch over the target, lists that are maps by their keys, sets united; a null removes."""
    if isinstance(patch, dict) and isinstance(target, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        merged = dict(target)
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge_by_keys(schemas, schemas.child(schema, key), merged.get(key), value)
        return merged
    if isinstance(patch, list) and isinstance(target, list):
        if keys := keys_of(schema):
            return _items_by_keys(schemas, schema, target, patch, keys)
        if schema.get("x-kubernetes-list-type") == "set":
            return [*target, *(item for item in patch if item not in target)]
    return copy.deepcopy(patch)


def _items_by_keys(
    schemas: Schemas, schema: dict[str, Any], target: list[Any], patch: list[Any], keys: tuple[str, ...]
) -> list[Any]:
    merged = list(target)
    for item in patch:
        at = next((i for i, old in enumerate(merged) if all(old.get(k) == item.get(k) for k in keys)), None)
        if at is None:
            merged.append(copy.deepcopy(item))
        else:
            merged[at] = merge_by_keys(schemas, schemas.child(schema, 0), merged[at], item)
    return merged
