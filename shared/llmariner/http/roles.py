"""What is said of roles, in an organisation as in a project of it."""

from __future__ import annotations

from llmariner.http.bodies import Body

__all__ = ["AssignmentBody", "NewRoleBody", "RoleBody"]


class NewRoleBody(Body):
    """POST of a new role. `permissions` are scopes."""

    role_name: str
    permissions: list[str]
    description: str | None = None


class RoleBody(Body):
    """POST of a role; what is not said stays."""

    role_name: str | None = None
    permissions: list[str] | None = None
    description: str | None = None


class AssignmentBody(Body):
    """POST of a role to a user."""

    role_id: str
