"""A project that others change something of must exist and not be archived."""

from __future__ import annotations

from sqlalchemy import select

from llmariner.errors import InvalidRequest, NotFound
from llmariner.platform.database import ReadSession
from llmariner.tenancy.tables import projects

__all__ = ["check_not_archived"]


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
