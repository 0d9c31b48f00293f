"""The authenticated principal of a request: its organization, project, roles and scopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmariner.errors import InvalidRequest

__all__ = ["Caller", "KeyOwner", "maker_of"]


@dataclass(frozen=True)
class KeyOwner:
    """The user, project and organization that an API key acts for."""

    user_id: str
    project_id: str
    organization_id: str


@dataclass(frozen=True)
class Caller:
    """A signed-in person, or an API key. `scopes`: those of its roles; for a key only those that the key carries, too.

    `project_id` None: an admin key, or a person without a project. `key_id` None: a person. Roles are names from
    `tenancy.roles.scopes` or ids of custom roles; None: no member. `allowed_sources`: the networks (CIDR) from which a key
    may be used; None: all.
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
        """Whether the caller has the role `owner` in its organization."""
        return self.organization_role == "owner"

    @property
    def key_owner(self) -> KeyOwner:
        """The owner of keys and objects that the caller creates. Raises InvalidRequest if no project is selected."""
        if self.project_id is None:
            raise InvalidRequest(
                "This request works inside a project, and you have selected none: send the header 'OpenAI-Project'.",
                code="project_required",
            )
        return KeyOwner(self.user_id, self.project_id, self.organization_id)


def maker_of(row: Any) -> Caller:
    """Who made an object, without any right. `row`: has `user_id`, `key_id`, `organization_id` and `project_id`."""
    return Caller(
        user_id=row.user_id,
        email="",
        organization_id=row.organization_id,
        project_id=row.project_id,
        organization_role=None,
        project_role=None,
        scopes=frozenset(),
        key_id=row.key_id,
    )
