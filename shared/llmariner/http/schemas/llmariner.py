"""JSON objects of LLMariner's own API, with additional fields of this platform.

Responses show roles as LLMariner's enums (`ORGANIZATION_ROLE_OWNER`), the only values that its clients accept: any other
role is shown as the nearest enum value, with the role itself in `role_id`. Requests may spell roles in any case, with or
without the prefix. A user's `id` is the e-mail in lower case; `internal_id` is the id in this platform's database.
"""

from __future__ import annotations

from typing import Any

from llmariner.errors import InvalidRequest
from llmariner.tenancy.keys.key import ApiKey
from llmariner.tenancy.members.memberships import Member
from llmariner.tenancy.members.users import User
from llmariner.tenancy.organizations.projects import Assignment, Project
from llmariner.tenancy.organizations.store import Organization, Summary

__all__ = ["api_key", "member", "organization", "parse_organization_role", "parse_project_role", "project", "user"]

JsonObject = dict[str, Any]

_ORGANIZATION, _PROJECT = "ORGANIZATION_ROLE_", "PROJECT_ROLE_"
# The roles of LLMariner's enums, and the one that stands for all other roles.
_ENUM_ROLES = {
    _ORGANIZATION: (frozenset({"owner", "reader", "tenant_system"}), "reader"),
    _PROJECT: (frozenset({"owner", "member"}), "member"),
}


def parse_organization_role(value: str, param: str = "role") -> str:
    """The role id of a role in any of the clients' spellings. Raises InvalidRequest for an empty or unspecified role."""
    return _parse_role(value, _ORGANIZATION, param)


def parse_project_role(value: str, param: str = "role") -> str:
    """As `parse_organization_role`, for a role in a project."""
    return _parse_role(value, _PROJECT, param)


def organization(each: Organization, summary: Summary | None = None) -> JsonObject:
    """An organization; `summary` only where the request asks for it."""
    counts = {"project_count": summary.projects, "user_count": summary.people} if summary else None
    return {
        "id": each.id,
        "object": "organization",
        "title": each.title,
        "created_at": each.created_at,
        "is_default": each.is_default,
        "summary": counts,
    }


def project(each: Project, member_count: int | None = None) -> JsonObject:
    """A project; `member_count` only where the request asks for it."""
    return {
        "id": each.id,
        "object": "project",
        "title": each.title,
        "organization_id": each.organization_id,
        "created_at": each.created_at,
        "is_default": each.is_default,
        "kubernetes_namespace": each.kubernetes_namespace or "",
        "assignments": [_assignment(one) for one in each.assignments],
        "summary": None if member_count is None else {"user_count": member_count},
    }


def member(each: Member) -> JsonObject:
    """A member of an organization or project."""
    shape: JsonObject = {
        "user_id": each.email,
        "internal_user_id": each.user_id,
        "name": each.name,
        "organization_id": each.organization_id,
        "created_at": each.created_at,
    }
    if each.project_id is None:
        return {**shape, **_role_fields(each.role, _ORGANIZATION)}
    return {**shape, "project_id": each.project_id, **_role_fields(each.role, _PROJECT)}


def user(each: User) -> JsonObject:
    """A user, with the roles that the caller may see."""
    bindings: dict[bool, list[JsonObject]] = {True: [], False: []}
    for one in each.bindings:
        in_project = one.project_id is not None
        named = {"project_id": one.project_id} if in_project else {}
        roles = _role_fields(one.role, _PROJECT if in_project else _ORGANIZATION)
        where = {**named, "organization_id": one.organization_id, "title": one.title}
        bindings[in_project].append({**where, **roles})
    return {
        "id": each.email,
        "internal_id": each.id,
        "name": each.name,
        "is_service_account": each.is_service_account,
        "hidden": each.hidden,
        "created_at": each.created_at,
        "organization_role_bindings": bindings[False],
        "project_role_bindings": bindings[True],
    }


def api_key(key: ApiKey, secret: str | None = None) -> JsonObject:
    """A key; `secret` only in the response that creates or rotates it, else the prefix."""
    return {
        "id": key.id,
        "object": "organization.api_key",
        "name": key.name,
        "secret": secret or key.prefix,
        "prefix": key.prefix,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "scopes": sorted(key.scopes),
        "allowed_models": list(key.allowed_models) if key.allowed_models is not None else None,
        "allowed_sources": list(key.allowed_sources) if key.allowed_sources is not None else None,
        "user": {
            "id": key.email,
            "internal_id": key.user_id,
            "email": key.email,
            "is_service_account": key.is_service_account_key,
            "hidden": False,
        },
        "organization": {"id": key.organization_id, "title": key.organization_title},
        "project": {"id": key.project_id, "title": key.project_title},
        "organization_role": _role_enum(key.organization_role, _ORGANIZATION),
        "organization_role_id": key.organization_role,
        "project_role": _role_enum(key.project_role, _PROJECT),
        "project_role_id": key.project_role,
        "excluded_from_rate_limiting": key.excluded_from_rate_limiting,
    }


def _assignment(each: Assignment) -> JsonObject:
    return {
        "cluster_id": each.cluster_id,
        "namespace": each.namespace,
        "kueue_queue_name": each.queue,
        "node_selector": [{"key": key, "value": value} for key, value in each.node_selector],
    }


def _parse_role(value: str, prefix: str, param: str) -> str:
    if value.startswith("role_"):
        return value
    role = value.upper().removeprefix(prefix).lower().replace("-", "_")
    if role in ("", "unspecified"):
        raise InvalidRequest(f"'{param}' must name a role, such as {prefix}OWNER or owner.", param=param)
    return role


def _role_fields(role: str, prefix: str) -> JsonObject:
    return {"role": _role_enum(role, prefix), "role_id": role}


def _role_enum(role: str | None, prefix: str) -> str:
    if role is None:
        return f"{prefix}UNSPECIFIED"
    known, nearest = _ENUM_ROLES[prefix]
    return prefix + (role if role in known else nearest).upper()
