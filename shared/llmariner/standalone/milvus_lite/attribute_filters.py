"""How the server of Milvus Lite evaluates expressions of `llmariner.platform.vectors.expressions`.

Milvus Lite goes through the rows of all tenants one by one where an expression has a path into JSON, and parses the JSON
of a row again for each comparison: a caller's list of 200 values takes half a minute of the process for 10,000 chunks. Here
the conditions on columns choose rows first; then the attributes of those are parsed once, and each comparison is one
operation on a column. What this module does not know is evaluated as Milvus Lite does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa  # type: ignore[import-untyped]
from milvus_lite.search import filter as milvus_filters
from milvus_lite.search.filter.ast import And, CmpOp, FieldRef, FloatLit, InOp, IsNullOp, Not, Or, PathAccess, StringLit
from milvus_lite.search.filter.eval import evaluate_arrow

__all__ = ["evaluate_by_columns"]

_ATTRIBUTES = "attributes"
_TEXTS = "s_"
"""Keys of texts, as `encoded_attributes` writes them; all others are of numbers."""

_original = milvus_filters.evaluate_mask


class _Unknown(Exception):
    """The expression is none of `expressions`."""


def evaluate_by_columns() -> None:
    """Have Milvus Lite evaluate expressions with this module, in the whole process."""
    milvus_filters.evaluate_mask = _evaluate_mask


def _evaluate_mask(compiled: Any, table: pa.Table) -> Any:
    """Which rows of a table an expression matches, as an array of numpy."""
    # Milvus Lite makes Python objects of all columns, the vectors among them.
    read = table.select([name for name in table.column_names if name in compiled.fields])
    if compiled.backend == "python":
        try:
            return _by_columns(compiled, read)
        except (_Unknown, pa.ArrowException, orjson.JSONDecodeError):
            pass
    return _original(compiled, read)


def _by_columns(compiled: Any, table: pa.Table) -> Any:
    parts = compiled.ast.operands if isinstance(compiled.ast, And) else (compiled.ast,)
    cheap = [part for part in parts if not any(_paths(part))]
    mask = np.ones(table.num_rows, dtype=bool)
    if cheap:
        mask = _evaluated(compiled, cheap, table)
    others = [part for part in parts if part not in cheap]
    if others and mask.any():
        keys = {key for part in others for key in _paths(part)}
        rows = _with_attributes(table.filter(pa.array(mask)).combine_chunks(), keys)
        mask[mask] = _evaluated(compiled, [_with_columns(part) for part in others], rows)
    return mask


def _evaluated(compiled: Any, parts: Iterable[Any], table: pa.Table) -> Any:
    whole = dataclasses.replace(compiled, ast=_all(tuple(parts)), backend="arrow")
    return np.array(evaluate_arrow(whole, table).to_numpy(zero_copy_only=False), dtype=bool)


def _all(parts: tuple[Any, ...]) -> Any:
    return parts[0] if len(parts) == 1 else And(operands=parts, pos=0)


def _paths(node: Any) -> Iterable[str]:
    """The keys of the attributes that an expression reads."""
    if isinstance(node, And | Or):
        for operand in node.operands:
            yield from _paths(operand)
    elif isinstance(node, CmpOp):
        yield from _paths(node.left)
        yield from _paths(node.right)
    elif isinstance(node, Not):
        yield from _paths(node.operand)
    elif isinstance(node, IsNullOp | InOp):
        yield from _paths(node.field)
    elif isinstance(node, PathAccess):
        yield _key(node)
    elif not isinstance(node, FieldRef | StringLit | FloatLit):
        raise _Unknown


def _key(path: PathAccess) -> str:
    if isinstance(path.base, FieldRef) and path.base.name == _ATTRIBUTES and len(path.path) == 1:
        key = path.path[0]
        if isinstance(key, str):
            return key
    raise _Unknown


def _with_columns(node: Any) -> Any:
    """An expression that reads the columns of `_with_attributes`."""
    if isinstance(node, PathAccess):
        return FieldRef(name=_key(node), pos=node.pos)
    if isinstance(node, And | Or):
        return dataclasses.replace(node, operands=tuple(_with_columns(operand) for operand in node.operands))
    if isinstance(node, CmpOp):
        return dataclasses.replace(node, left=_with_columns(node.left), right=_with_columns(node.right))
    if isinstance(node, Not):
        return Not(operand=_with_columns(node.operand), pos=node.pos)
    if isinstance(node, IsNullOp):
        return dataclasses.replace(node, field=_with_columns(node.field))
    return node


def _with_attributes(table: pa.Table, keys: Iterable[str]) -> pa.Table:
    """The table with a column for each key. A file without that attribute, or of another type, has null there."""
    stored = table.column(_ATTRIBUTES).to_pylist()
    rows: list[Mapping[str, Any]] = [{} if text is None else orjson.loads(text) for text in stored]
    for key in sorted(keys):
        type_ = pa.string() if key.startswith(_TEXTS) else pa.float64()
        table = table.append_column(key, pa.array([row.get(key) for row in rows], type=type_))
    return table
