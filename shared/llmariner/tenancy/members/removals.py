"""Removals by an owner: groups do not add a removed person again until someone adds them explicitly."""

from __future__ import annotations

import time

from sqlalchemy import and_, select

from llmariner.platform.database import ReadSession, WriteSession
from llmariner.tenancy.tables import removals

__all__ = ["clear_removal", "record_removal", "removals_of"]


def record_removal(session: WriteSession, organization_id: str, user_id: str, project_id: str = "") -> None:
    """Record that a user was removed from an organization, or (`project_id`) from a project of it. Idempotent."""
    row = {"organization_id": organization_id, "project_id": project_id, "user_id": user_id}
    session.insert_if_absent(removals, [{**row, "removed_at": int(time.time())}])


def clear_removal(session: WriteSession, organization_id: str, user_id: str, project_id: str = "") -> None:
    """Delete the record when a user is added again; without `project_id` also those of the organization's projects."""
    condition = and_(removals.c.organization_id == organization_id, removals.c.user_id == user_id)
    if project_id:
        condition = and_(condition, removals.c.project_id == project_id)
    session.run(removals.delete().where(condition))


def removals_of(session: ReadSession, user_id: str) -> frozenset[tuple[str, str | None]]:
    """The organizations (project None), and the projects, that the user was removed from."""
    query = select(removals.c.organization_id, removals.c.project_id).where(removals.c.user_id == user_id)
    return frozenset((row.organization_id, row.project_id or None) for row in session.rows(query))
