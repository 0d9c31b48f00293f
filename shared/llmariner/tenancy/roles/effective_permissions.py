"""The effective permissions of a user in an organization and a project: roles, and the scopes that follow from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select, update

from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.tenancy.roles.scopes import INSTALLATION_SCOPES, ORGANIZATION_ROLES, PROJECT_ROLES, with_implied
from llmariner.tenancy.tables import api_keys, custom_roles, organization_users, organizations, project_users, users

__all__ = ["EffectivePermissions", "bump_revision", "resolve_permissions"]


@dataclass(frozen=True)
class EffectivePermissions:
    """A user's roles (None: no member), and the union of their scopes."""

    organization_role: str | None
    project_role: str | None
    scopes: frozenset[str]


def resolve_permissions(
    session: ReadSession, user_id: str, organization_id: str, project_id: str | None
) -> EffectivePermissions:
    """The current permissions of a user. An organization's owner owns its projects; a non-member has none in any project."""
    member = (
        select(organization_users.c.role, organizations.c.is_default)
        .join(organizations)
        .where(organization_users.c.organization_id == organization_id, organization_users.c.user_id == user_id)
    )
    found = session.first(member)
    if found is None:
        return EffectivePermissions(None, None, frozenset())
    organization_role = found.role
    project_role = None
    if project_id is not None:
        project_role = session.value(
            select(project_users.c.role).where(
                project_users.c.project_id == project_id, project_users.c.user_id == user_id
            )
        )
        if organization_role == "owner":
            project_role = project_role or "owner"
    scopes = _scopes(session, ORGANIZATION_ROLES, organization_role) | _scopes(session, PROJECT_ROLES, project_role)
    if organization_role == "owner" and found.is_default:
        scopes |= INSTALLATION_SCOPES
    return EffectivePermissions(organization_role, project_role, with_implied(scopes))


def bump_revision(session: WriteSession, *, user_ids: Iterable[str] = (), key_ids: Iterable[str] = ()) -> None:
    """Publish that the permissions of these users or keys changed: all instances read them again within 2 s."""
    people, keys = list(user_ids), list(key_ids)
    if not people and not keys:
        return
    revision = next_revision(session, "api_keys")
    session.run(update(users).where(users.c.id.in_(people)).values(revision=revision))
    of_them = api_keys.c.user_id.in_(people) | api_keys.c.id.in_(keys)
    session.run(update(api_keys).where(of_them, api_keys.c.revoked_at.is_(None)).values(revision=revision))


def _scopes(session: ReadSession, built_in: dict[str, frozenset[str]], role: str | None) -> frozenset[str]:
    if role is None or role in built_in:
        return built_in.get(role or "", frozenset())
    stored = session.value(select(custom_roles.c.scopes).where(custom_roles.c.id == role))
    return frozenset((stored or "").split())
