"""Lists as OpenAI's admin API gives them: two envelopes, cursors that are ids, and filters in brackets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query, Request

from llmariner.errors import InvalidRequest

__all__ = ["Cursor", "Limit", "Order", "bounds", "listed", "listed_with_next", "values"]

Limit = Annotated[int, Query(ge=0, le=100)]
Cursor = Annotated[str | None, Query(max_length=64)]
Order = Literal["asc", "desc"]


def listed(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page whose next one follows its `last_id`. Clients read ids as texts, so those of an empty page are empty."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else ("", "")
    return {"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": has_more}


def listed_with_next(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page that names the cursor of the next one; null on the last."""
    return {
        "object": "list",
        "data": list(data),
        "has_more": has_more,
        "next": data[-1]["id"] if has_more and data else None,
    }


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
