"""What is said of roles, in an organisation as in a project of it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["AssignmentBody", "NewRoleBody", "RoleBody"]


class NewRoleBody(BaseModel):
    """POST of a new role. `permissions` are scopes."""

    model_config = ConfigDict(strict=True)

    role_name: str
    permissions: list[str]
    description: str | None = None


class RoleBody(BaseModel):
    """POST of a role; what is not said stays."""

    model_config = ConfigDict(strict=True)

    role_name: str | None = None
    permissions: list[str] | None = None
    description: str | None = None


class AssignmentBody(BaseModel):
    """POST of a role to a user."""

    model_config = ConfigDict(strict=True)

    role_id: str
