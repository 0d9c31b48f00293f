"""A project that others change something of must exist and not be archived."""

from __future__ import annotations

import time

from sqlalchemy import select

from llmariner.errors import InvalidRequest, NotFound
from llmariner.platform.database import ReadSession
from llmariner.tenancy.tables import projects

__all__ = ["archival_cutoff", "check_not_archived", "is_archived_since"]


def check_not_archived(session: ReadSession, organization_id: str, project_id: str, refusal: str) -> None:
    """NotFound for a project that the organization does not have, InvalidRequest with `refusal` for an archived one."""
    query = select(projects.c.archived_at).where(
        projects.c.id == project_id, projects.c.organization_id == organization_id
    )
    row = session.first(query)
    if row is None:
        raise NotFound(f"No project with id '{project_id}' in the organization.", param="project_id")
    if row.archived_at is not None:
        raise InvalidRequest(f"The project is archived; {refusal}.", param="project_id")


def archival_cutoff(session: ReadSession, days: float) -> float:
    """The time so many days ago, in seconds since 1970, for what is deleted for good with a project archived by then.

    By the earlier of two clocks, the database's and this machine's: one that is set forward deletes nothing.
    """
    return min(session.now(), time.time()) - days * 86400


def is_archived_since(session: ReadSession, project_id: str, archived_before: float) -> bool:
    """Whether a project was archived by then, in seconds since 1970, and still is; also if it is gone altogether.

    Until the transaction ends, nobody can restore it.
    """
    query = select(projects.c.archived_at).where(projects.c.id == project_id)
    row = session.first(query.with_for_update(read=True))
    return row is None or (row.archived_at is not None and row.archived_at <= archived_before)
