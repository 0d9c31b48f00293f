"""Rejection of circular JSON schemas, which no value can satisfy: engines fail on these in the middle of a response.

A schema may refer to itself through its properties and items, as that of a tree does. It may not consist only of a
reference to itself, directly, through other schemas, or in `allOf`, `anyOf` and `oneOf`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from llmariner.errors import InvalidRequest

__all__ = ["check_schema", "check_schemas"]

Schema = dict[str, Any]
# Of one request in total; schemas beyond this number, and longer references, are left to the engine.
_MAX_SCHEMAS = 5_000
_MAX_REFERENCE_LENGTH = 256
# Keywords whose values are not schemas; definitions count where they are referenced.
_NON_SCHEMA_KEYWORDS = frozenset({"const", "enum", "default", "examples", "$defs", "definitions", "required"})
_SCHEMA_MAP_KEYWORDS = frozenset({"properties", "patternProperties", "dependentSchemas"})


def check_schema(schema: Any, param: str) -> None:
    """InvalidRequest for a circular schema. `param`: the field's path, for the error."""
    check_schemas([(schema, param)])


def check_schemas(schemas: Iterable[tuple[Any, str]]) -> None:
    """As `check_schema`, for all schemas of a request, each with its `param`."""
    remaining = _MAX_SCHEMAS
    for schema, param in schemas:
        if isinstance(schema, dict):
            reachable = _reachable(schema, remaining)
            if reachable is None:
                return
            remaining -= len(reachable)
            if (circular := _find_circular(reachable)) is not None:
                raise _circular_schema(circular, param)


def _circular_schema(circular: Schema, param: str) -> InvalidRequest:
    what = (
        f"the reference '{circular['$ref']}'" if isinstance(circular.get("$ref"), str) else "a combination of schemas"
    )
    return InvalidRequest(
        f"Invalid schema in '{param}': {what} leads back to itself without an end, so no value can fit it. Let it refer "
        "to itself only through properties or items.",
        param=param,
        code="invalid_json_schema",
    )


def _reachable(root: Schema, max_schemas: int) -> dict[int, tuple[Schema, Schema | None]] | None:
    """Every schema that applies to some value, by identity, with its `$ref` target; None when over `max_schemas`."""
    reachable: dict[int, tuple[Schema, Schema | None]] = {}
    queue = deque([root])
    seen = {id(root)}
    while queue:
        schema = queue.popleft()
        target = _resolve_reference(root, schema.get("$ref"))
        reachable[id(schema)] = schema, target
        for each in (*_children(schema), *([] if target is None else [target])):
            if id(each) not in seen:
                seen.add(id(each))
                queue.append(each)
        if len(seen) > max_schemas:
            return None
    return reachable


def _children(schema: Schema) -> Iterator[Schema]:
    for name, value in schema.items():
        if name in _NON_SCHEMA_KEYWORDS:
            continue
        within = value.values() if name in _SCHEMA_MAP_KEYWORDS and isinstance(value, dict) else (value,)
        for each in within:
            if isinstance(each, dict):
                yield each
            elif isinstance(each, list):
                yield from (item for item in each if isinstance(item, dict))


def _resolve_reference(root: Schema, reference: Any) -> Schema | None:
    """The target of a JSON pointer (RFC 6901) within the schema; None for any other reference."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    if len(reference) > _MAX_REFERENCE_LENGTH:
        return None
    target: Any = root
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict):
            target = target.get(name)
        elif isinstance(target, list) and name.isdecimal() and len(name) < 6 and int(name) < len(target):
            target = target[int(name)]
        else:
            return None
    return target if isinstance(target, dict) else None


def _alternatives(schema: Schema, target: Schema | None) -> Iterator[list[Schema]]:
    """The schemas that the same value must also satisfy: at least one of each list."""
    if target is not None:
        yield [target]
    for name in ("allOf", "anyOf", "oneOf"):
        listed = schema.get(name)
        if isinstance(listed, list) and listed and all(isinstance(each, dict) for each in listed):
            yield from ([each] for each in listed) if name == "allOf" else [listed]


def _find_circular(reachable: dict[int, tuple[Schema, Schema | None]]) -> Schema | None:
    """A circular schema, or None: one that is not resolved when resolution starts at the schemas without references."""
    unresolved: dict[int, int] = {}
    dependents: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for identity, (schema, target) in reachable.items():
        groups = list(_alternatives(schema, target))
        unresolved[identity] = len(groups)
        for number, group in enumerate(groups):
            for each in group:
                dependents[id(each)].append((identity, number))
    resolved = deque(identity for identity, count in unresolved.items() if not count)
    counted: set[tuple[int, int]] = set()
    while resolved:
        for dependent in dependents[resolved.popleft()]:
            if dependent not in counted:
                counted.add(dependent)
                unresolved[dependent[0]] -= 1
                if not unresolved[dependent[0]]:
                    resolved.append(dependent[0])
    return next((reachable[identity][0] for identity, count in unresolved.items() if count), None)
