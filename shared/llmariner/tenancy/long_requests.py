"""A request that takes long is checked again before it changes something: its caller may have lost the right meanwhile."""

from __future__ import annotations

from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.platform.database import Database
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.current_rights import read_rights
from llmariner.tenancy.roles.scopes import with_implied

__all__ = ["check_still_allowed"]


def check_still_allowed(database: Database, caller: Caller, scope: str) -> None:
    """Raises AuthenticationFailed where the caller's key has ended since the request began.

    Raises PermissionDenied where its project is archived or deleted, or it or its key has lost the scope. Blocks.
    """
    owner = caller.key_owner
    rights = read_rights(
        database,
        user_id=owner.user_id,
        organization_id=owner.organization_id,
        project_id=owner.project_id,
        key_id=caller.key_id,
    )
    if caller.key_id is not None and rights.key is None:
        raise AuthenticationFailed(
            "The API key was revoked or expired during the request; nothing was stored.", code="invalid_api_key"
        )
    if not rights.is_project_active:
        raise PermissionDenied(
            "The project was archived during the request; nothing was stored.", code="project_archived"
        )
    scopes = rights.scopes if rights.key is None else rights.scopes & with_implied(rights.key.scopes)
    if scope not in scopes:
        raise PermissionDenied("You lost the right to do this during the request; nothing was stored.")
