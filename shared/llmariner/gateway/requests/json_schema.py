"""JSON schemas that refer to themselves without an end, so that no value fits them: engines fail on these in mid-answer.

A schema may refer to itself through its properties and items: trees are written so. It may not be nothing but a reference
to itself, directly, over others, or in `allOf`, `anyOf` and `oneOf`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from llmariner.errors import InvalidRequest

__all__ = ["check_schema", "check_schemas"]

Schema = dict[str, Any]
# Of one request together; what is beyond is left to the engine, and so are references that are longer.
_MAX_SCHEMAS = 5_000
_MAX_REFERENCE_LENGTH = 256
# What holds values, and not schemas; definitions count where they are referred to.
_NON_SCHEMA_KEYWORDS = frozenset({"const", "enum", "default", "examples", "$defs", "definitions", "required"})
_SCHEMA_MAP_KEYWORDS = frozenset({"properties", "patternProperties", "dependentSchemas"})


def check_schema(schema: Any, param: str) -> None:
    """InvalidRequest for a schema that no value can fit since it refers to itself without an end."""
    check_schemas([(schema, param)])


def check_schemas(schemas: Iterable[tuple[Any, str]]) -> None:
    """As `check_schema`, of all schemas of a request: each with what an error calls it."""
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
    """Every schema that a value may have to fit, by identity, and what it refers to; None when there are over `most`."""
    found: dict[int, tuple[Schema, Schema | None]] = {}
    waiting = deque([root])
    seen = {id(root)}
    while waiting:
        schema = waiting.popleft()
        target = _resolve_reference(root, schema.get("$ref"))
        found[id(schema)] = schema, target
        for each in (*_children(schema), *([] if target is None else [target])):
            if id(each) not in seen:
                seen.add(id(each))
                waiting.append(each)
        if len(seen) > max_schemas:
            return None
    return found


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
    """What a reference within the schema (RFC 6901) points to; None for any other."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    if len(reference) > _MAX_REFERENCE_LENGTH:
        return None
    found: Any = root
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and len(name) < 6 and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found if isinstance(found, dict) else None


def _alternatives(schema: Schema, target: Schema | None) -> Iterator[list[Schema]]:
    """What the same value must fit besides: of each list one schema at least."""
    if target is not None:
        yield [target]
    for name in ("allOf", "anyOf", "oneOf"):
        listed = schema.get(name)
        if isinstance(listed, list) and listed and all(isinstance(each, dict) for each in listed):
            yield from ([each] for each in listed) if name == "allOf" else [listed]


def _find_circular(reachable: dict[int, tuple[Schema, Schema | None]]) -> Schema | None:
    """A schema that never comes to say what it asks for: those that do are found from those that refer to none."""
    missing: dict[int, int] = {}
    needed_by: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for identity, (schema, target) in reachable.items():
        groups = list(_alternatives(schema, target))
        missing[identity] = len(groups)
        for number, group in enumerate(groups):
            for each in group:
                needed_by[id(each)].append((identity, number))
    ended = deque(identity for identity, count in missing.items() if not count)
    met: set[tuple[int, int]] = set()
    while ended:
        for need in needed_by[ended.popleft()]:
            if need not in met:
                met.add(need)
                missing[need[0]] -= 1
                if not missing[need[0]]:
                    ended.append(need[0])
    return next((reachable[identity][0] for identity, count in missing.items() if count), None)
