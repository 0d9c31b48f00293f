"""JSON objects of OpenAI's admin API, with additional fields of this platform.

Each function takes a row of `tenancy.organizations.queries`. Times are whole seconds since 1970.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Row

from llmariner.errors import InvalidRequest, NotFound
from llmariner.http.schemas.lists import paginate_with_next
from llmariner.tenancy.roles.scopes import ORGANIZATION_ROLES, PROJECT_ROLES

__all__ = [
    "admin_key",
    "all_roles",
    "assigned_role",
    "check_custom_role",
    "check_has_role",
    "deleted",
    "find_role",
    "invite",
    "model_permissions",
    "project",
    "project_key",
    "project_user",
    "roles_page",
    "service_account",
    "service_account_key",
    "user",
]

JsonObject = dict[str, Any]


def deleted(object_: str, id_: str) -> JsonObject:
    """The response to a deletion, whose object is `organization.user.deleted` for example."""
    return {"id": id_, "object": f"{object_}.deleted", "deleted": True}


def project(row: Row[Any]) -> JsonObject:
    """A project."""
    return {
        "id": row.id,
        "object": "organization.project",
        "name": row.title,
        "created_at": row.created_at,
        "archived_at": row.archived_at,
        "status": "active" if row.archived_at is None else "archived",
        "is_default": row.is_default,
        "external_key_id": None,
    }


def model_permissions(row: Row[Any]) -> JsonObject:
    """The models that a project may use: for all models, an empty deny list."""
    return {
        "object": "project.model_permissions",
        "mode": "allow_list" if row.model_mode == "allow" else "deny_list",
        "model_ids": json.loads(row.model_ids) if row.model_ids else [],
    }


def project_user(row: Row[Any]) -> JsonObject:
    """A user of a project."""
    return {
        "id": row.id,
        "object": "organization.project.user",
        "name": row.name or row.email,
        "email": row.email,
        "role": row.role,
        "added_at": row.added_at,
    }


def service_account(row: Row[Any]) -> JsonObject:
    """A service account of a project."""
    return {
        "id": row.id,
        "object": "organization.project.service_account",
        "name": row.name or row.email,
        "role": row.role,
        "created_at": row.created_at,
    }


def user(row: Row[Any], memberships: Iterable[Row[Any]]) -> JsonObject:
    """A user of the organization, with their projects."""
    name = row.name or row.email
    data = [{"id": member.id, "name": member.title, "role": member.role} for member in memberships]
    return {
        "id": row.id,
        "object": "organization.user",
        "name": name,
        "email": row.email,
        "role": row.role,
        "added_at": row.added_at,
        "created": row.created_at,
        "api_key_last_used_at": row.last_used_at,
        "is_default": False,
        "is_service_account": False,
        "is_scim_managed": False,
        "is_scale_tier_authorized_purchaser": None,
        "developer_persona": None,
        "technical_level": None,
        "projects": {"object": "list", "data": data},
        "user": {"id": row.id, "object": "user", "name": name, "email": row.email, "enabled": True},
    }


def project_key(row: Row[Any]) -> JsonObject:
    """An API key of a project, without its secret."""
    has_access = row.organization_role == "owner" or row.project_role is not None
    role = row.project_role or ("owner" if row.organization_role == "owner" else "none")
    owner = {
        "id": row.user_id,
        "name": row.user_name or row.email,
        "role": role,
        "created_at": row.user_created_at,
    }
    kind = "service_account" if row.user_kind == "service_account" else "user"
    return {
        "id": row.id,
        "object": "organization.project.api_key",
        "name": row.name,
        "redacted_value": row.prefix,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
        "scopes": sorted(row.scopes.split()),
        "owner": {"type": kind, kind: owner if kind == "service_account" else {**owner, "email": row.email}},
        "owner_project_access": "active" if has_access else "inactive",
    }


def service_account_key(key: Any, secret: str) -> JsonObject:
    """A service account's new key (`key`: an `ApiKey`), with its secret."""
    return {
        "id": key.id,
        "object": "organization.project.service_account.api_key",
        "name": key.name,
        "value": secret,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }


def admin_key(row: Row[Any], secret: str | None = None) -> JsonObject:
    """An admin key; `secret` only in the response that creates it."""
    response = {
        "id": row.id,
        "object": "organization.admin_api_key",
        "name": row.name,
        "redacted_value": row.prefix,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "last_used_at": row.last_used_at,
        "owner": {
            "type": "user",
            "object": "organization.user",
            "id": row.user_id,
            "name": row.user_name or row.email,
            "created_at": row.user_created_at,
            "role": row.organization_role,
        },
    }
    return response if secret is None else {**response, "value": secret}


def invite(row: Row[Any]) -> JsonObject:
    """An invitation, without its token."""
    unaccepted = "pending" if row.expires_at > time.time() else "expired"
    return {
        "id": row.id,
        "object": "organization.invite",
        "email": row.email,
        "role": row.role,
        "status": unaccepted if row.accepted_at is None else "accepted",
        "projects": json.loads(row.projects),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "accepted_at": row.accepted_at,
    }


def roles_page(
    roles: Sequence[JsonObject], *, of_projects: bool, after: str | None, limit: int, order: str
) -> JsonObject:
    """A page of roles, predefined roles before custom roles, with the cursor of the next page."""
    predefined_ids = [*(PROJECT_ROLES if of_projects else ORGANIZATION_ROLES)]
    if after and after not in predefined_ids and not after.startswith("role_"):
        raise InvalidRequest(
            "'after' must be an id of this list, such as the 'next' of the page before.", param="after"
        )

    def key(role_id: str) -> tuple[int, str]:
        return (predefined_ids.index(role_id), "") if role_id in predefined_ids else (len(predefined_ids), role_id)

    return paginate_with_next(roles, after=after or None, limit=limit, order=order, key=key)


def find_role(custom: Sequence[Row[Any]], role_id: str, *, of_projects: bool) -> JsonObject:
    """A role by its id. Raises NotFound."""
    found = [role for role in all_roles(custom, of_projects=of_projects) if role["id"] == role_id]
    if not found:
        raise NotFound(f"No role with id '{role_id}' here.", param="role_id")
    return found[0]


def assigned_role(custom: Sequence[Row[Any]], role_id: str, *, of_projects: bool) -> JsonObject:
    """An assigned role by its id, with every field of OpenAI's type, null where none is stored. Raises NotFound."""
    created = [row.created_at for row in custom if row.id == role_id]
    return {
        **find_role(custom, role_id, of_projects=of_projects),
        "created_at": created[0] if created else None,
        "updated_at": None,
        "created_by": None,
        "created_by_user_obj": None,
        "metadata": None,
        "assignment_sources": None,
    }


def check_custom_role(role: JsonObject) -> None:
    """Raises InvalidRequest for a predefined role."""
    if role["predefined_role"]:
        raise InvalidRequest(f"The role '{role['id']}' is there everywhere and doesn't change.", param="role_id")


def check_has_role(member: Row[Any], role_id: str) -> None:
    """Raises NotFound when a member has another role."""
    if member.role != role_id:
        raise NotFound(f"The user '{member.email}' has the role '{member.role}', not '{role_id}'.", param="role_id")


def all_roles(custom: Sequence[Row[Any]], *, of_projects: bool) -> list[JsonObject]:
    """Predefined roles, whose names are their ids, then custom roles."""
    resource_type, predefined = (
        ("api.project", PROJECT_ROLES) if of_projects else ("api.organization", ORGANIZATION_ROLES)
    )
    roles = [_role(name, name, "", scopes, resource_type, predefined=True) for name, scopes in predefined.items()]
    return [*roles, *(_custom_role(row) for row in custom)]


def _custom_role(row: Row[Any]) -> JsonObject:
    resource_type = "api.organization" if row.project_id is None else "api.project"
    return _role(row.id, row.name, row.description, row.scopes.split(), resource_type, predefined=False)


def _role(
    id_: str, name: str, description: str, scopes: Iterable[str], resource_type: str, *, predefined: bool
) -> JsonObject:
    return {
        "id": id_,
        "object": "role",
        "name": name,
        "description": description or None,
        "permissions": sorted(scopes),
        "resource_type": resource_type,
        "predefined_role": predefined,
    }
