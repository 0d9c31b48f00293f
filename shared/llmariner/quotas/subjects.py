"""The projects and organizations that have quotas, as far as a caller may see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select

from llmariner.errors import NotFound
from llmariner.platform.database import Database
from llmariner.quotas.quota import Subject
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import caller_in_organization, caller_in_project
from llmariner.tenancy.tables import organizations, projects

__all__ = ["QuotaSubjects"]


class QuotaSubjects:
    """Looks up the subject of a quota by its id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, caller: Caller, id_: str, scope: str) -> tuple[Subject, str]:
        """A project that the caller may see, or its organization, and its title. NotFound, PermissionDenied."""
        if id_ == caller.organization_id:
            caller_in_organization(self._database, caller, id_, scope)
        else:
            caller_in_project(self._database, caller, caller.organization_id, id_, scope)
        return self.find_any(id_)

    def find_any(self, id_: str, *, include_archived: bool = False) -> tuple[Subject, str]:
        """Any organization or project of the installation, and its title. NotFound."""
        project = select(projects).where(projects.c.id == id_)
        if not include_archived:
            project = project.where(projects.c.archived_at.is_(None))
        with self._database.read() as session:
            if (row := session.first(project)) is not None:
                return Subject(row.organization_id, row.id), str(row.title)
            row = session.first(select(organizations).where(organizations.c.id == id_))
        if row is None:
            raise NotFound(f"No project or organization with id '{id_[:64]}' that you can see.", param="id")
        return Subject(row.id), str(row.title)

    def page(self, organization_id: str, only: str | None, *, after: str | None, limit: int) -> Sequence[Row[Any]]:
        """Projects that are not archived, oldest first, from `after` on; `only`: of that id."""
        query = select(projects.c.id, projects.c.title).where(
            projects.c.organization_id == organization_id, projects.c.archived_at.is_(None)
        )
        if only is not None:
            query = query.where(projects.c.id == only)
        if after is not None:
            query = query.where(projects.c.id > after)
        with self._database.read() as session:
            return session.rows(query.order_by(projects.c.id).limit(limit))

    def projects_of(self, organization_id: str) -> frozenset[str]:
        """The ids of an organization's projects, archived ones too: their workloads may not have ended yet."""
        query = select(projects.c.id).where(projects.c.organization_id == organization_id)
        with self._database.read() as session:
            return frozenset(row.id for row in session.rows(query))
