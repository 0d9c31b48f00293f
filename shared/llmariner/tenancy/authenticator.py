"""Authentication: resolves a secret or a user to a `Caller` with its organization, project, roles and scopes."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Select, Table, select

from llmariner.errors import AuthenticationFailed, PermissionDenied
from llmariner.platform.database import Database, ReadSession
from llmariner.settings import Secret
from llmariner.tenancy import validators
from llmariner.tenancy.keys import secrets
from llmariner.tenancy.keys.key import ApiKey, find_key_by_digest
from llmariner.tenancy.keys.last_use import LastUse
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.effective_permissions import resolve_permissions
from llmariner.tenancy.roles.scopes import with_implied
from llmariner.tenancy.tables import organization_users, organizations, project_users, projects, users

__all__ = ["Authenticator"]


class Authenticator:
    """Authenticates the callers of one installation."""

    def __init__(self, database: Database, pepper: Secret) -> None:
        self._database = database
        self._pepper = pepper
        self.last_use = LastUse(database)

    def authenticate(self, secret: str, organization: str | None = None, project: str | None = None) -> Caller | None:
        """The caller that uses this secret; None if the key is unknown, revoked, expired or superseded.

        `organization` and `project` are the values of the request's headers. Raises AuthenticationFailed if they differ from
        the key's own.
        """
        found = self.authenticate_digest(secrets.digest(self._pepper, secret), organization, project)
        return None if found is None else found[1]

    def authenticate_digest(
        self, digest: str, organization: str | None = None, project: str | None = None
    ) -> tuple[ApiKey, Caller] | None:
        """A usable key and its caller; None if the key is unusable or its user has left. Raises as `authenticate`."""
        with self._database.read() as session:
            key = find_key_by_digest(session, digest)
            now = time.time()
            if key is None or not key.usable(now) or key.superseded(digest, now):
                return None
            permissions = resolve_permissions(session, key.user_id, key.organization_id, key.project_id)
            if permissions.organization_role is None or (
                key.project_id is not None and permissions.project_role is None
            ):
                return None
        _check_header_matches_key("organization", organization, key.organization_id, key.organization_title)
        _check_header_matches_key("project", project, key.project_id, key.project_title)
        self.last_use.record({key.id: int(now)})
        return key, Caller(
            user_id=key.user_id,
            email=key.email,
            organization_id=key.organization_id,
            project_id=key.project_id,
            organization_role=permissions.organization_role,
            project_role=permissions.project_role,
            scopes=with_implied(key.scopes) & permissions.scopes,
            key_id=key.id,
            key_name=key.name,
            unlimited=key.excluded_from_rate_limiting,
            allowed_sources=key.allowed_sources,
        )

    def caller_for_user(self, user_id: str, organization: str | None = None, project: str | None = None) -> Caller:
        """A person in the organization and project selected by id or title, or in the default ones.

        Raises AuthenticationFailed for an unknown user, PermissionDenied for a selection that the user is no member of.
        """
        with self._database.read() as session:
            email = session.value(select(users.c.email).where(users.c.id == user_id))
            if email is None:
                raise AuthenticationFailed("This user is not known here any more.")
            organization_id = _select_organization(session, user_id, organization)
            project_id = _select_project(session, user_id, organization_id, project)
            permissions = resolve_permissions(session, user_id, organization_id, project_id)
        return Caller(
            user_id=user_id,
            email=email,
            organization_id=organization_id,
            project_id=project_id,
            organization_role=permissions.organization_role,
            project_role=permissions.project_role,
            scopes=permissions.scopes,
        )


def _check_header_matches_key(what: str, requested: str | None, own_id: str | None, own_title: str | None) -> None:
    # A title that looks like an id is ignored: it may be the id of another organization or project.
    if requested and requested != own_id and (requested != own_title or validators.looks_like_id(requested)):
        raise AuthenticationFailed(
            f"The header 'OpenAI-{what.capitalize()}' names '{requested}', but this API key is of {own_id or 'none'}. "
            "Leave the header out, or use a key of that one.",
            code=f"mismatched_{what}",
        )


def _select_by_id_or_title(session: ReadSession, query: Select[Any], table: Table, requested: str | None) -> Any:
    """The id of the first row if `requested` is empty; else of the row with that id, or with that title. Ids come first."""
    if not requested:
        return session.value(query)
    found = session.value(query.where(table.c.id == requested))
    if found is None and not validators.looks_like_id(requested):
        found = session.value(query.where(table.c.title == requested))
    return found


def _select_organization(session: ReadSession, user_id: str, requested: str | None) -> str:
    query = (
        select(organizations.c.id)
        .join(organization_users)
        .where(organization_users.c.user_id == user_id)
        # Oldest membership first: a later membership does not change a user's default organization.
        .order_by(
            organizations.c.is_default.desc(),
            organization_users.c.created_at,
            organizations.c.created_at,
            organizations.c.id,
        )
    )
    found = _select_by_id_or_title(session, query, organizations, requested)
    if found is None:
        which = f"the organization '{requested}'" if requested else "any organization"
        raise PermissionDenied(f"You are not a member of {which}. Ask one of its owners to add you.")
    return str(found)


def _select_project(session: ReadSession, user_id: str, organization_id: str, requested: str | None) -> str | None:
    """The requested project, else the default one, else the oldest membership; for an owner the oldest project."""
    owns = session.first(
        select(organization_users.c.role).where(
            organization_users.c.organization_id == organization_id,
            organization_users.c.user_id == user_id,
            organization_users.c.role == "owner",
        )
    )
    query = (
        select(projects.c.id)
        .where(projects.c.organization_id == organization_id, projects.c.archived_at.is_(None))
        .order_by(projects.c.is_default.desc())
    )
    if owns is None:
        query = query.join(project_users).where(project_users.c.user_id == user_id)
        query = query.order_by(project_users.c.created_at)
    query = query.order_by(projects.c.created_at, projects.c.id)
    found = _select_by_id_or_title(session, query, projects, requested)
    if found is None and requested:
        raise PermissionDenied(f"You are not a member of the project '{requested}'. Ask one of its owners to add you.")
    return None if found is None else str(found)
