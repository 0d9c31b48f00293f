"""Custom roles over HTTP: bodies and operations that the routes of organizations and projects share."""

from __future__ import annotations

from llmariner.http.schemas.bodies import Body, rename_error_fields
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.custom_roles import CustomRole, CustomRoles

__all__ = ["AssignmentBody", "CreateRoleBody", "UpdateRoleBody", "create", "update"]


class CreateRoleBody(Body):
    """POST of a new role. `permissions`: scopes."""

    role_name: str
    permissions: list[str]
    description: str | None = None


class UpdateRoleBody(Body):
    """POST of a role; absent fields are unchanged."""

    role_name: str | None = None
    permissions: list[str] | None = None
    description: str | None = None


class AssignmentBody(Body):
    """POST of a role to a user."""

    role_id: str


def create(roles: CustomRoles, caller: Caller, body: CreateRoleBody, project_id: str | None = None) -> CustomRole:
    """Create a role of a project, or (`project_id` None) of the organization, with scopes that the caller holds."""
    with rename_error_fields(name="role_name", scopes="permissions"):
        return roles.create(
            caller, body.role_name, body.permissions, description=body.description or "", project_id=project_id
        )


def update(roles: CustomRoles, caller: Caller, role_id: str, body: UpdateRoleBody) -> None:
    """Update a role for everyone who has it."""
    with rename_error_fields(name="role_name", scopes="permissions"):
        roles.update(caller, role_id, name=body.role_name, scopes=body.permissions, description=body.description)
