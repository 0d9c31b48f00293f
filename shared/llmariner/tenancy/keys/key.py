"""API keys as they are stored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, or_, select

from llmariner.platform.database import ReadSession
from llmariner.tenancy.tables import api_keys, organization_users, organizations, project_users, projects, users

__all__ = ["KEYS", "ApiKey", "find_key_by_digest", "key_from_row"]


@dataclass(frozen=True)
class ApiKey:
    """A key as it is stored. Times in seconds since 1970; `project_id` None: an admin key.

    `allowed_models`: ids, `allowed_sources`: networks in CIDR form; None: all. `project_models`: the restriction of the
    project, ('allow' or 'deny', ids), None: none. Roles are those of the key's user; None: no member.
    """

    id: str
    name: str
    kind: str
    user_id: str
    project_id: str | None
    organization_id: str
    email: str
    user_name: str | None
    is_service_account_key: bool
    organization_title: str
    project_title: str | None
    organization_role: str | None
    project_role: str | None
    prefix: str
    scopes: frozenset[str]
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    excluded_from_rate_limiting: bool
    allowed_models: tuple[str, ...] | None
    allowed_sources: tuple[str, ...] | None
    project_models: tuple[str, frozenset[str]] | None
    digest: str
    previous_digest: str | None
    previous_expires_at: float | None
    revoked_at: float | None
    revision: int
    project_archived: bool

    def usable(self, at: float) -> bool:
        """Whether the key is neither revoked nor expired at that time, and its project is not archived."""
        alive = self.revoked_at is None and not self.project_archived
        return alive and (self.expires_at is None or at < self.expires_at)

    def superseded(self, digest: str, at: float) -> bool:
        """Whether the digest is that of the previous secret, and the overlap of the rotation has ended."""
        return digest == self.previous_digest and (self.previous_expires_at or 0) <= at


KEYS = select(
    api_keys,
    users.c.email,
    users.c.name.label("user_name"),
    users.c.kind.label("user_kind"),
    organizations.c.title.label("organization_title"),
    projects.c.title.label("project_title"),
    projects.c.archived_at,
    projects.c.model_mode,
    projects.c.model_ids,
    organization_users.c.role.label("organization_role"),
    project_users.c.role.label("project_role"),
).select_from(
    api_keys.join(users, users.c.id == api_keys.c.user_id)
    .join(organizations, organizations.c.id == api_keys.c.organization_id)
    .outerjoin(projects, projects.c.id == api_keys.c.project_id)
    .outerjoin(
        organization_users,
        (organization_users.c.user_id == api_keys.c.user_id)
        & (organization_users.c.organization_id == api_keys.c.organization_id),
    )
    .outerjoin(
        project_users,
        (project_users.c.user_id == api_keys.c.user_id) & (project_users.c.project_id == api_keys.c.project_id),
    )
)
"""Rows for `key_from_row`."""


def find_key_by_digest(session: ReadSession, digest: str) -> ApiKey | None:
    """The key whose current or previous secret has that digest."""
    row = session.first(KEYS.where(or_(api_keys.c.digest == digest, api_keys.c.previous_digest == digest)))
    return key_from_row(row) if row else None


def key_from_row(row: Row[Any]) -> ApiKey:
    """The key of a row of `KEYS`."""
    return ApiKey(
        id=row.id,
        name=row.name,
        kind=row.kind,
        user_id=row.user_id,
        project_id=row.project_id,
        organization_id=row.organization_id,
        email=row.email,
        user_name=row.user_name,
        is_service_account_key=row.user_kind == "service_account",
        organization_title=row.organization_title,
        project_title=row.project_title,
        organization_role=row.organization_role,
        project_role=row.project_role or ("owner" if row.project_id and row.organization_role == "owner" else None),
        prefix=row.prefix,
        scopes=frozenset(row.scopes.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        excluded_from_rate_limiting=row.excluded_from_rate_limiting,
        allowed_models=_tuple_from_json(row.allowed_models),
        allowed_sources=_tuple_from_json(row.allowed_sources),
        project_models=(row.model_mode, frozenset(_tuple_from_json(row.model_ids) or ())) if row.model_mode else None,
        digest=row.digest,
        previous_digest=row.previous_digest,
        previous_expires_at=row.previous_expires_at,
        revoked_at=row.revoked_at,
        revision=row.revision,
        project_archived=row.archived_at is not None,
    )


def _tuple_from_json(stored: str | None) -> tuple[str, ...] | None:
    return None if stored is None else tuple(json.loads(stored))
