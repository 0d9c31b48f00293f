"""A request that takes long is checked again before it changes something: its caller may have lost the right meanwhile."""

from __future__ import annotations

import time

from sqlalchemy import select

from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.platform.database import Database
from llmariner.tenancy.keys.key import KEYS, key_from_row
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.effective_permissions import resolve_permissions
from llmariner.tenancy.tables import api_keys, projects

__all__ = ["check_still_allowed"]


def check_still_allowed(database: Database, caller: Caller, scope: str) -> None:
    """Raises AuthenticationFailed where the caller's key has ended since the request began.

    Raises PermissionDenied where its project is archived or deleted, or it has lost the scope there. Blocks.
    """
    owner = caller.key_owner
    with database.read() as session:
        row = session.first(select(projects.c.archived_at).where(projects.c.id == owner.project_id))
        found = session.first(KEYS.where(api_keys.c.id == caller.key_id)) if caller.key_id else None
        permissions = resolve_permissions(session, owner.user_id, owner.organization_id, owner.project_id)
    if caller.key_id is not None and (found is None or not key_from_row(found).usable(time.time())):
        raise AuthenticationFailed(
            "The API key was revoked or expired while the request arrived; nothing was stored.", code="invalid_api_key"
        )
    if row is None or row.archived_at is not None:
        raise PermissionDenied(
            "The project was archived while the request arrived; nothing was stored.", code="project_archived"
        )
    if permissions.project_role is None or scope not in permissions.scopes:
        raise PermissionDenied("You lost the right to do this while the request arrived; nothing was stored.")
