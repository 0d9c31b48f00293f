"""Invitations: a person becomes a member by the token, or by signing in with the invited e-mail.

The token is returned once, to the inviter, and only its keyed hash is stored. It can be used by anyone who has it, so it
grants only what the invitation contains, and nothing to a person who is a member already.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, select, update

from llmariner.errors import Conflict, InvalidRequest, NotFound, PlatformError
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.settings import Secret
from llmariner.tenancy import validators
from llmariner.tenancy.invitations.pending import is_inviter_authorized, is_pending
from llmariner.tenancy.keys import secrets
from llmariner.tenancy.keys.store import KeyOwner, Keys, NewKey
from llmariner.tenancy.members.memberships import person_id_by_email
from llmariner.tenancy.members.removals import clear_removal
from llmariner.tenancy.mutations import record_mutation, serialize_mutations
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.delegation import (
    check_can_grant_organization_role,
    check_can_grant_project_role,
    check_can_revoke_organization_role,
    check_can_revoke_project_role,
)
from llmariner.tenancy.roles.effective_permissions import bump_revision, resolve_permissions
from llmariner.tenancy.sign_in.account_claims import open_claim_window
from llmariner.tenancy.tables import invites, organization_users, project_users, projects, users

__all__ = ["MAX_LIFETIME_SECONDS", "AcceptedInvite", "Invite", "Invites", "ProjectGrant"]

_DAY = 86400
_DEFAULT_LIFETIME_SECONDS = 7 * _DAY
MAX_LIFETIME_SECONDS = 90 * _DAY
_MAX_PROJECTS = 100
_TOKEN = re.compile(r"inv-[A-Za-z0-9]{48}")


@dataclass(frozen=True)
class ProjectGrant:
    """A project that the invited person becomes a member of, and the role."""

    project_id: str
    role: str = "member"


@dataclass(frozen=True)
class Invite:
    """An invitation. Times in seconds since 1970; `accepted_at`, `revoked_at` None: not yet."""

    id: str
    organization_id: str
    email: str
    role: str
    projects: tuple[ProjectGrant, ...]
    invited_by: str
    created_at: int
    expires_at: int
    accepted_at: int | None
    revoked_at: int | None


@dataclass(frozen=True)
class AcceptedInvite:
    """An accepted invitation: the person, and the scopes of a first key of theirs in a project of the invitation.

    `project_id` None: they are in no project. `first_key`: id and secret of that key, if one was created.
    """

    invite: Invite
    user_id: str
    project_id: str | None
    scopes: frozenset[str]
    first_key: tuple[str, str] | None = None


class Invites:
    """The invitations of one installation. A caller acts in its own organization.

    `keys_only`: no sign-in is configured, so accepting must create a first key, which needs a project.
    """

    def __init__(self, database: Database, pepper: Secret, *, keys_only: bool = False) -> None:
        self._database = database
        self._pepper = pepper
        self._keys_only = keys_only

    def create(
        self,
        caller: Caller,
        email: str,
        role: str = "reader",
        projects: Sequence[ProjectGrant] = (),
        *,
        expires_in: int = _DEFAULT_LIFETIME_SECONDS,
    ) -> tuple[Invite, str]:
        """Create an invitation; returns it with its token. Conflict for members and for addresses already invited."""
        if not 1 <= expires_in <= MAX_LIFETIME_SECONDS:
            raise InvalidRequest(
                f"'expires_in_seconds' must be 1 to {MAX_LIFETIME_SECONDS}.", param="expires_in_seconds"
            )
        requested, token, invite_id = validators.validate_email(email), secrets.new_token(), new_id("invite")
        organization_id, now = caller.organization_id, int(time.time())
        with self._database.write() as session:
            serialize_mutations(session, caller)
            check_can_grant_organization_role(session, caller, organization_id, role)
            _check_project_grants(session, caller, projects)
            _check_not_member_or_invited(session, organization_id, requested)
            if self._keys_only and not projects and _project_for_first_key(session, organization_id, role, ()) is None:
                raise InvalidRequest(
                    "Nobody can sign in to this platform, so an invitation ends in a first API key, and a key is of a "
                    "project: name one in 'projects'.",
                    param="projects",
                )
            promised = [{"id": each.project_id, "role": each.role} for each in projects]
            session.add(
                invites,
                id=invite_id,
                organization_id=organization_id,
                email=requested,
                role=role,
                projects=json.dumps(promised),
                digest=secrets.digest(self._pepper, token),
                invited_by=caller.user_id,
                created_at=now,
                expires_at=now + expires_in,
            )
            details = {"data": {"email": requested, "role": role, "projects": promised}}
            record_mutation(session, caller, "invite.sent", invite_id, details, organization_id=organization_id)
        return self.get(organization_id, invite_id), token

    def get(self, organization_id: str, invite_id: str) -> Invite:
        """One unrevoked invitation. NotFound otherwise."""
        with self._database.read() as session:
            return _load(session, organization_id, invite_id)

    def all(self, organization_id: str) -> list[Invite]:
        """The unrevoked invitations of an organization, newest first."""
        query = select(invites).where(invites.c.organization_id == organization_id, invites.c.revoked_at.is_(None))
        with self._database.read() as session:
            rows = session.rows(query.order_by(invites.c.created_at.desc(), invites.c.id.desc()))
        return [_invite_from_row(row) for row in rows]

    def revoke(self, caller: Caller, invite_id: str) -> None:
        """Revoke an invitation. Conflict if it was accepted; NotFound if it was revoked."""
        with self._database.write() as session:
            serialize_mutations(session, caller)
            invite = _load(session, caller.organization_id, invite_id)
            check_can_revoke_organization_role(session, caller, caller.organization_id, invite.role)
            for each in invite.projects:
                check_can_revoke_project_role(session, caller, caller.organization_id, each.project_id, each.role)
            if invite.accepted_at is not None:
                raise Conflict("The invitation was accepted already; remove the user instead.", param="invite_id")
            session.run(update(invites).where(invites.c.id == invite_id).values(revoked_at=int(time.time())))
            record_mutation(session, caller, "invite.deleted", invite_id, {}, organization_id=caller.organization_id)

    def accept(self, token: str, keys: Keys | None = None) -> AcceptedInvite:
        """Accept an invitation by its token; with `keys` a first key is created, with the scopes of the invitation.

        NotFound for a token that is unknown, expired, revoked, used or whose inviter is no longer authorized; the error does
        not tell which. Conflict for a member, and if no project is left for the first key.
        """
        if not _TOKEN.fullmatch(token):
            raise _invalid_token()
        digest = secrets.digest(self._pepper, token)
        with self._database.read() as session:
            _find_pending(session, digest)  # without the lock, so that guessed tokens do not delay mutations
        with self._database.write() as session:
            serialize_mutations(session)
            invite = _find_pending(session, digest)
            _check_not_member(session, invite)
            live = [
                each.project_id
                for each in invite.projects
                if _is_unarchived_project(session, invite.organization_id, each.project_id)
            ]
            project_id = _project_for_first_key(session, invite.organization_id, invite.role, live)
            if self._keys_only and project_id is None:
                raise Conflict(
                    "There is no project any more that this invitation leads to, so no key could be made. Ask for another "
                    "invitation.",
                    param="token",
                )
            user_id = _create_memberships(session, invite)
            scopes = resolve_permissions(session, user_id, invite.organization_id, project_id).scopes
            session.run(update(invites).where(invites.c.id == invite.id).values(accepted_at=int(time.time())))
            bump_revision(session, user_ids=[user_id])
            first_key = None
            if keys is not None and project_id is not None:
                place = KeyOwner(user_id, project_id, invite.organization_id)
                first_key = keys.create_in(session, place, NewKey(f"invitation {invite.id}", scopes))
            details = {"user_id": user_id, "email": invite.email}
            record_mutation(
                session, None, "invite.accepted", invite.id, details, organization_id=invite.organization_id
            )
        return AcceptedInvite(self.get(invite.organization_id, invite.id), user_id, project_id, scopes, first_key)


def _find_pending(session: ReadSession, digest: str) -> Invite:
    row = session.first(select(invites).where(invites.c.digest == digest, is_pending()))
    if row is None or not is_inviter_authorized(session, row):
        raise _invalid_token()
    return _invite_from_row(row)


def _invalid_token() -> PlatformError:
    return NotFound(
        "This invitation is not good: it is unknown, expired, taken back or used. Ask for another.", param="token"
    )


def _check_not_member(session: ReadSession, invite: Invite) -> None:
    if _is_member(session, invite.organization_id, invite.email):
        raise Conflict(
            f"'{invite.email}' is a member of the organization already, and an invitation adds nothing to that. Sign in, "
            "or ask an owner of the organization for a project or a role.",
            param="token",
            code="already_member",
        )


def _project_for_first_key(
    session: ReadSession, organization_id: str, role: str, promised: Sequence[str]
) -> str | None:
    """The project of the first key: the first granted one; for an owner any unarchived one. None if there is none."""
    if promised or role != "owner":
        return next(iter(promised), None)
    live = select(projects.c.id).where(projects.c.organization_id == organization_id, projects.c.archived_at.is_(None))
    found = session.value(live.order_by(projects.c.is_default.desc(), projects.c.created_at, projects.c.id))
    return None if found is None else str(found)


def _check_project_grants(session: ReadSession, caller: Caller, promises: Sequence[ProjectGrant]) -> None:
    if len({each.project_id for each in promises}) < len(promises) or len(promises) > _MAX_PROJECTS:
        raise InvalidRequest(f"'projects' must name up to {_MAX_PROJECTS} projects, each once.", param="projects")
    for index, each in enumerate(promises):
        if not _is_unarchived_project(session, caller.organization_id, each.project_id):
            raise InvalidRequest(
                f"No live project with id '{each.project_id}' in the organization.", param=f"projects[{index}].id"
            )
        check_can_grant_project_role(session, caller, caller.organization_id, each.project_id, each.role)


def _is_unarchived_project(session: ReadSession, organization_id: str, project_id: str) -> bool:
    one = and_(projects.c.id == project_id, projects.c.organization_id == organization_id)
    return session.first(select(projects.c.id).where(one, projects.c.archived_at.is_(None))) is not None


def _check_not_member_or_invited(session: ReadSession, organization_id: str, email: str) -> None:
    if _is_member(session, organization_id, email):
        raise Conflict(f"'{email}' is a member of the organization already.", param="email")
    found = session.first(select(invites.c.id).where(is_pending(email=email, organization_id=organization_id)))
    if found is not None:
        raise Conflict(f"'{email}' is invited already ({found.id}); take that back first.", param="email")


def _is_member(session: ReadSession, organization_id: str, email: str) -> bool:
    member = (
        select(users.c.id)
        .join(organization_users)
        .where(users.c.email == email, organization_users.c.organization_id == organization_id)
    )
    return session.first(member) is not None


def _create_memberships(session: WriteSession, invite: Invite) -> str:
    """Create the user and the memberships that are missing; archived projects are left out."""
    now = int(time.time())
    user_id = person_id_by_email(session, invite.email)
    if user_id is None:
        user_id = new_id("user")
        session.add(users, id=user_id, email=invite.email, created_at=now)
    open_claim_window(session, user_id)
    joined = {"organization_id": invite.organization_id, "user_id": user_id, "created_at": now}
    session.insert_if_absent(organization_users, [{**joined, "role": invite.role}])
    clear_removal(session, invite.organization_id, user_id)
    for each in invite.projects:
        if _is_unarchived_project(session, invite.organization_id, each.project_id):
            session.insert_if_absent(project_users, [{**joined, "project_id": each.project_id, "role": each.role}])
    return user_id


def _load(session: ReadSession, organization_id: str, invite_id: str) -> Invite:
    query = select(invites).where(
        invites.c.id == invite_id, invites.c.organization_id == organization_id, invites.c.revoked_at.is_(None)
    )
    row = session.first(query)
    if row is None:
        raise NotFound(f"No invitation with id '{invite_id}' in the organization.", param="invite_id")
    return _invite_from_row(row)


def _invite_from_row(row: Row[Any]) -> Invite:
    return Invite(
        id=row.id,
        organization_id=row.organization_id,
        email=row.email,
        role=row.role,
        projects=tuple(ProjectGrant(each["id"], each["role"]) for each in json.loads(row.projects)),
        invited_by=row.invited_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        accepted_at=row.accepted_at,
        revoked_at=row.revoked_at,
    )
