"""Pages of lists, ordered by ids of rows, which sort by time of creation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, Select

from llmariner.platform.database import ReadSession

__all__ = ["Page", "Paging", "fetch_page"]

Page: TypeAlias = tuple[Sequence[Row[Any]], bool]
"""The rows of a page, and whether more follow in its direction."""


@dataclass(frozen=True)
class Paging:
    """A page request: up to `limit` rows that follow the id `after`, or that immediately precede the id `before`."""

    after: str | None = None
    before: str | None = None
    limit: int = 20
    order: str = "desc"

    @property
    def backwards(self) -> bool:
        """Whether the page is the one before a row."""
        return self.before is not None and self.after is None


def fetch_page(session: ReadSession, query: Select[Any], identity: ColumnElement[str], paging: Paging) -> Page:
    """A page of a query, ordered by `identity`, the column of ids."""
    ascending = paging.order == "asc"
    low, high = (paging.after, paging.before) if ascending else (paging.before, paging.after)
    if low is not None:
        query = query.where(identity > low)
    if high is not None:
        query = query.where(identity < high)
    rising = ascending != paging.backwards
    rows = session.rows(query.order_by(identity.asc() if rising else identity.desc()).limit(paging.limit + 1))
    page = rows[: paging.limit]
    return page[::-1] if paging.backwards else page, len(rows) > paging.limit
