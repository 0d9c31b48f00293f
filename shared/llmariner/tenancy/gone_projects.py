"""Projects whose rows are gone while other tables still name them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, select

from llmariner.platform.database import ReadSession
from llmariner.tenancy.tables import projects

__all__ = ["gone_projects"]


def gone_projects(session: ReadSession, column: ColumnElement[Any], limit: int) -> list[str]:
    """The ids of up to so many projects that a column names and that are gone.

    Of an index that begins with the column it reads one entry per project, however many rows a project has.
    """
    named = select(func.min(column).label("id")).cte("named", recursive=True)
    later = select(func.min(column)).where(column > named.c.id).scalar_subquery()
    named = named.union_all(select(later).where(named.c.id.is_not(None)))
    gone = select(named.c.id).where(named.c.id.is_not(None), named.c.id.not_in(select(projects.c.id)))
    return [row.id for row in session.rows(gone.limit(limit))]
