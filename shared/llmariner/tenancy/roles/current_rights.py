"""What a user may do in a project now, with the key that they used: for work that outlasts the check of its request."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import select

from llmariner.platform.database import Database
from llmariner.tenancy.keys.key import KEYS, ApiKey, key_from_row
from llmariner.tenancy.roles.effective_permissions import resolve_permissions
from llmariner.tenancy.tables import api_keys, projects

__all__ = ["CurrentRights", "read_rights"]


@dataclass(frozen=True)
class CurrentRights:
    """`scopes`: none of a user who has left the project. `key`: None without one, or if it was revoked or has expired."""

    is_project_active: bool
    scopes: frozenset[str]
    key: ApiKey | None


def read_rights(
    database: Database, *, user_id: str, organization_id: str, project_id: str, key_id: str | None
) -> CurrentRights:
    """The rights in the database. Blocks."""
    with database.read() as session:
        project = session.first(select(projects.c.archived_at).where(projects.c.id == project_id))
        permissions = resolve_permissions(session, user_id, organization_id, project_id)
        found = session.first(KEYS.where(api_keys.c.id == key_id)) if key_id else None
    key = None if found is None else key_from_row(found)
    return CurrentRights(
        is_project_active=project is not None and project.archived_at is None,
        scopes=frozenset() if permissions.project_role is None else frozenset(permissions.scopes),
        key=key if key is not None and key.usable(time.time()) else None,
    )
