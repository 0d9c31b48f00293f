"""Lists of OpenAI's admin API: two envelopes, cursors that are ids, and filters in brackets.

Ids sort by creation time and lists are ordered by id, so an id is a valid cursor even after its item is deleted: a client
that deletes items while it pages skips none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from llmariner.errors import InvalidRequest
from llmariner.http.schemas.timestamps import unit_mistake

__all__ = [
    "AlertCursor",
    "AuditLogCursor",
    "BatchJobCursor",
    "CheckpointPermissionCursor",
    "ClusterCursor",
    "Cursor",
    "FileCursor",
    "FineTuningCheckpointCursor",
    "FineTuningEventCursor",
    "FineTuningJobCursor",
    "GroupCursor",
    "InviteCursor",
    "KeyCursor",
    "Limit",
    "LongLimit",
    "NotebookCursor",
    "Order",
    "ProjectCursor",
    "RoleLimit",
    "UserCursor",
    "VectorStoreCursor",
    "filter_values",
    "list_response",
    "list_response_with_next",
    "metadata_filter",
    "paginate",
    "paginate_with_next",
    "range_filter",
]

_MAX_METADATA = 16
_DEFAULT_LIMIT, _DEFAULT_LONG_LIMIT, _MAX_LIMIT = 20, 100, 1000
# Zero means the default, since protobuf's JSON omits zeros. Bounds and defaults are those of OpenAI's lists.
Limit = Annotated[int, Query(ge=0, le=100), AfterValidator(lambda limit: limit or _DEFAULT_LIMIT)]
LongLimit = Annotated[int, Query(ge=0, le=_MAX_LIMIT), AfterValidator(lambda limit: limit or _DEFAULT_LONG_LIMIT)]
RoleLimit = Annotated[int, Query(ge=0, le=_MAX_LIMIT), AfterValidator(lambda limit: limit or _MAX_LIMIT)]
Order = Literal["asc", "desc"]


def _id_with_prefix(prefix: str, separator: str = "_") -> Callable[[str | None], str | None]:
    pattern = re.compile(rf"{prefix}{separator}[0-9a-z_]{{1,60}}")

    def check(value: str | None) -> str | None:
        if value and not pattern.fullmatch(value):
            raise PydanticCustomError(
                "cursor", "it must be an id of this list, such as the last one of the page before"
            )
        return value or None

    return check


_CursorQuery = Query(max_length=64)
Cursor = Annotated[str | None, _CursorQuery]
"""A cursor of lists whose ids have no common prefix."""
AuditLogCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("audit_log"))]
AlertCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("alert"))]
BatchJobCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("bj", "-"))]
CheckpointPermissionCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("cp"))]
ClusterCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("cluster", "-"))]
FileCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("file", "-"))]
FineTuningCheckpointCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("ftckpt"))]
FineTuningEventCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("ftevent", "-"))]
FineTuningJobCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("ftjob", "-"))]
GroupCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("group"))]
InviteCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("invite"))]
KeyCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("key"))]
NotebookCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("nb", "-"))]
ProjectCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("proj"))]
UserCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("user"))]
VectorStoreCursor = Annotated[str | None, _CursorQuery, AfterValidator(_id_with_prefix("vs"))]


def list_response(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page with `first_id` and `last_id`. Clients expect strings, so both are empty on an empty page."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else ("", "")
    return {"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": has_more}


def paginate(
    found: Sequence[dict[str, Any]], *, after: str | None, before: str | None, limit: int, order: str
) -> dict[str, Any]:
    """One page of a complete list: the items that follow `after`, or those that immediately precede `before`."""
    data = _slice_by_cursors(found, after, before, order, "id", str)
    backwards = before is not None and after is None
    return list_response(data[-limit:] if backwards else data[:limit], has_more=limit < len(data))


def list_response_with_next(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page with the cursor of the next page, `next`; null on the last page."""
    return {
        "object": "list",
        "data": list(data),
        "has_more": has_more,
        "next": data[-1]["id"] if has_more and data else None,
    }


def paginate_with_next(
    found: Sequence[dict[str, Any]],
    *,
    after: str | None,
    limit: int,
    order: str,
    name: str = "id",
    key: Callable[[str], Any] = str,
) -> dict[str, Any]:
    """As `paginate`, with the cursor of the next page: the field `name` of an item; items are sorted by its `key`."""
    data = _slice_by_cursors(found, after, None, order, name, key)
    has_more = len(data) > limit
    return {
        "object": "list",
        "data": data[:limit],
        "has_more": has_more,
        "next": data[limit - 1][name] if has_more else None,
    }


def _slice_by_cursors(
    found: Sequence[dict[str, Any]],
    after: str | None,
    before: str | None,
    order: str,
    name: str,
    key: Callable[[str], Any],
) -> list[dict[str, Any]]:
    """The items after the one cursor and before the other, in the requested order."""
    data = sorted(found, key=lambda each: key(each[name]), reverse=order == "desc")
    low, high = (after, before) if order == "asc" else (before, after)
    return [
        each
        for each in data
        if (low is None or key(each[name]) > key(low)) and (high is None or key(each[name]) < key(high))
    ]


def filter_values(request: Request, name: str) -> tuple[str, ...]:
    """All values of a query filter, which clients send as `name[]=a&name[]=b` or `name=a&name=b`."""
    query = request.query_params
    return tuple(query.getlist(f"{name}[]") + query.getlist(name))


def metadata_filter(request: Request) -> dict[str, str] | None:
    """The pairs of `metadata[name]=value`, as OpenAI has it; empty for `metadata=null`; None without a filter."""
    query = request.query_params
    plain = query.get("metadata")
    if plain is not None and plain != "null":
        raise InvalidRequest(
            "Filter by 'metadata[name]=value', or by 'metadata=null' for what has no metadata.",
            param="metadata",
            code="invalid_value",
        )
    names = [key for key in query if key.startswith("metadata[") and key.endswith("]")]
    if plain is not None and names:
        raise InvalidRequest(
            "Nothing has both metadata and none: leave one filter out.", param="metadata", code="invalid_value"
        )
    if len(names) > _MAX_METADATA:
        raise InvalidRequest(
            f"Filter by {_MAX_METADATA} pairs of metadata at most.", param="metadata", code="invalid_value"
        )
    for name in names:
        if len(query.getlist(name)) > 1:
            raise InvalidRequest(f"'{name[:80]}' must have one value.", param="metadata", code="invalid_value")
    if plain is not None:
        return {}
    return {name[len("metadata[") : -1]: query[name] for name in names} or None


def range_filter(request: Request, name: str) -> dict[str, float]:
    """The bounds of a filter such as `effective_at[gte]=1730000000`, by operator. Raises InvalidRequest for other values."""
    found = {}
    for operator in ("gt", "gte", "lt", "lte"):
        value = request.query_params.get(f"{name}[{operator}]")
        if value is None:
            continue
        # Not float(): it accepts "nan" and digits outside ASCII.
        param = f"{name}[{operator}]"
        if not (value.isascii() and value.isdigit() and len(value) <= 20):
            raise InvalidRequest(f"'{param}' must be whole seconds since 1970.", param=param)
        if mistake := unit_mistake(float(value)):
            raise InvalidRequest(f"Invalid '{param}': {mistake}.", param=param, code="invalid_value")
        found[operator] = float(value)
    return found
