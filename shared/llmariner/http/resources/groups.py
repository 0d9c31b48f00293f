"""Groups over HTTP: bodies, objects and checks that the routes of organizations and projects share."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from sqlalchemy import Row

from llmariner.errors import InvalidRequest, NotFound
from llmariner.http.authorization.authentication import context_of
from llmariner.http.schemas.bodies import Body
from llmariner.settings import IdentitySettings
from llmariner.tenancy.groups.store import Groups

__all__ = [
    "GroupBody",
    "GroupUserBody",
    "ProjectGroupBody",
    "check_has_role",
    "group_object",
    "group_summary",
    "group_user",
    "groups_of",
    "project_group",
    "require_issuer",
    "role_assignment",
]


class GroupBody(Body):
    """POST of a group, by its name at the issuer."""

    name: str


class GroupUserBody(Body):
    """POST to a group's users."""

    user_id: str


class ProjectGroupBody(Body):
    """POST to a project's groups."""

    group_id: str
    role: str


def groups_of(request: Request) -> Groups:
    """The store of the installation's groups."""
    return Groups(context_of(request).database)


def require_issuer(request: Request) -> str:
    """The configured issuer. Raises InvalidRequest where none is configured."""
    issuer = IdentitySettings.load(context_of(request).env).issuer
    if not issuer:
        raise InvalidRequest("This platform has no issuer, so there are no groups: set LLMARINER_OIDC_ISSUER first.")
    return issuer


def group_object(group: Row[Any]) -> dict[str, Any]:
    """A group. `is_scim_managed` is how clients recognize a group that the issuer manages."""
    return {
        "id": group.id,
        "object": "group",
        "name": group.name,
        "created_at": group.created_at,
        "group_type": "group",
        "is_scim_managed": True,
        "issuer": group.issuer,
    }


def project_group(row: Row[Any], project_id: str) -> dict[str, Any]:
    """A group with a role in a project."""
    return {
        "object": "project.group",
        "project_id": project_id,
        "group_id": row.id,
        "group_name": row.name,
        "group_type": "group",
        "created_at": row.given_at,
        "role": row.role,
    }


def group_user(row: Row[Any]) -> dict[str, Any]:
    """A user in a group."""
    return {
        "id": row.id,
        "object": "group.user",
        "name": row.name or row.email,
        "email": row.email,
        "picture": None,
        "is_service_account": False,
        "user_type": "user",
    }


def group_summary(group: Row[Any]) -> dict[str, Any]:
    """A group as part of a role assignment."""
    return {
        "id": group.id,
        "object": "group",
        "name": group.name,
        "created_at": group.created_at,
        "scim_managed": True,
    }


def role_assignment(group: Row[Any], role: dict[str, Any]) -> dict[str, Any]:
    """A role that is assigned to a group."""
    return {"object": "group.role", "group": group_summary(group), "role": role}


def check_has_role(group: Row[Any], held: Row[Any] | None, role_id: str) -> None:
    """Raises NotFound when a group has another role, or none."""
    if held is None or held.role != role_id:
        raise NotFound(f"The group '{group.name}' does not have the role '{role_id}' there.", param="role_id")
