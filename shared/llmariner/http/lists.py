"""Lists as OpenAI's admin API gives them: two envelopes, cursors that are ids, and filters in brackets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query, Request

from llmariner.errors import InvalidRequest

__all__ = ["Cursor", "Limit", "Order", "bounds", "listed", "listed_with_next", "next_page", "page", "values"]

Limit = Annotated[int, Query(ge=0, le=100)]
Cursor = Annotated[str | None, Query(max_length=64)]
Order = Literal["asc", "desc"]


def listed(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page whose next one follows its `last_id`. Clients read ids as texts, so those of an empty page are empty."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else ("", "")
    return {"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": has_more}


def page(
    newest_first: Sequence[dict[str, Any]], *, after: str | None, before: str | None, limit: int, order: str
) -> dict[str, Any]:
    """A page of a list that is short enough to be at hand: what follows `after`, or stands right before `before`."""
    data = list(newest_first) if order == "desc" else list(reversed(newest_first))
    ids = [each["id"] for each in data]
    if (after or before) and (after or before) not in ids:
        return listed([], has_more=False)
    if after:
        data = data[ids.index(after) + 1 :]
    elif before:
        data = data[: ids.index(before)]
        return listed(data[-limit:] if limit else [], has_more=0 < limit < len(data))
    return listed(data[:limit], has_more=0 < limit < len(data))


def listed_with_next(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page that names the cursor of the next one; null on the last."""
    return {
        "object": "list",
        "data": list(data),
        "has_more": has_more,
        "next": data[-1]["id"] if has_more and data else None,
    }


def next_page(
    oldest_first: Sequence[dict[str, Any]], *, after: str | None, limit: int, order: str, name: str = "id"
) -> dict[str, Any]:
    """As `page`, of a list that names the cursor of the next one: what stands under `name`."""
    data = list(oldest_first) if order == "asc" else list(reversed(oldest_first))
    if after:
        places = [index for index, each in enumerate(data) if each[name] == after]
        data = data[places[0] + 1 :] if places else []
    shown = data[:limit]
    more = bool(shown) and len(data) > limit
    return {"object": "list", "data": shown, "has_more": more, "next": shown[-1][name] if more else None}


def values(request: Request, name: str) -> tuple[str, ...]:
    """All values of a filter, which clients send as `name[]=a&name[]=b` or `name=a&name=b`."""
    query = request.query_params
    return tuple(query.getlist(f"{name}[]") + query.getlist(name))


def bounds(request: Request, name: str) -> dict[str, float]:
    """The bounds of a filter such as `effective_at[gte]=1730000000`, by operator. InvalidRequest for no number."""
    found = {}
    for operator in ("gt", "gte", "lt", "lte"):
        said = request.query_params.get(f"{name}[{operator}]")
        if said is None:
            continue
        # Not float(): it takes "nan", and digits that no database takes.
        if not (said.isascii() and said.isdigit() and len(said) <= 12):
            raise InvalidRequest(f"'{name}[{operator}]' must be whole seconds since 1970.", param=f"{name}[{operator}]")
        found[operator] = float(said)
    return found
