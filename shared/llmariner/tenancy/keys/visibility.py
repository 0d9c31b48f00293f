"""The keys that a caller may manage."""

from __future__ import annotations

from llmariner.tenancy.keys.store import KeySelector
from llmariner.tenancy.principal import Caller

__all__ = ["manageable_by"]

_MANAGES = "api.organizations.projects.users.write"


def manageable_by(caller: Caller, project_id: str | None = None) -> KeySelector:
    """The keys that the caller may manage in its organization, or in one project of it.

    An owner of the organization: all; a caller that manages the project's users: those of its project; others: their own,
    and an API key only those of its own project.
    """
    if caller.is_owner:
        return KeySelector(caller.organization_id, project_id)
    if caller.project_id is not None and _MANAGES in caller.scopes:
        return KeySelector(caller.organization_id, caller.project_id)
    pinned = caller.project_id if caller.key_id is not None else project_id
    return KeySelector(caller.organization_id, pinned, caller.user_id)
