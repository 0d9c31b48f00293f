"""Who calls, on behalf of which organisation and project, and what it may do there."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.errors import InvalidRequest

__all__ = ["Caller", "KeyOwner"]


@dataclass(frozen=True)
class KeyOwner:
    """On whose behalf a key acts."""

    user_id: str
    project_id: str
    organization_id: str


@dataclass(frozen=True)
class Caller:
    """A person who signed in, or a key. `scopes`: what the roles give, for a key cut down to what it carries.

    `project_id` None: an admin key, or a person who belongs to no project. `key_id` None: a person. Roles are those of
    `tenancy.scopes`, or the id of one that the organisation made; None: no member. `allowed_sources`: the networks that a
    key may be used from; None: all.
    """

    user_id: str
    email: str
    organization_id: str
    project_id: str | None
    organization_role: str | None
    project_role: str | None
    scopes: frozenset[str]
    key_id: str | None = None
    key_name: str | None = None
    unlimited: bool = False
    allowed_sources: tuple[str, ...] | None = None

    @property
    def is_owner(self) -> bool:
        """Whether it owns the organisation."""
        return self.organization_role == "owner"

    @property
    def key_owner(self) -> KeyOwner:
        """On whose behalf it works in its project. InvalidRequest when it has selected none."""
        if self.project_id is None:
            raise InvalidRequest(
                "This request works inside a project, and you have selected none: send the header 'OpenAI-Project'.",
                code="project_required",
            )
        return KeyOwner(self.user_id, self.project_id, self.organization_id)
