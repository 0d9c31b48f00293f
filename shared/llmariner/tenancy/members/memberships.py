"""Memberships of people in organizations and projects.

Removing a membership revokes the user's keys there. An organization keeps its last owner. Only owners grant and revoke
ownership, and nobody grants more than they hold. Service accounts are managed in `service_accounts`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, and_, delete, func, select, update

from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.identifiers import new_id
from llmariner.limits.cascade_delete import delete_rules
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy import validators
from llmariner.tenancy.invitations.pending import pending_invites_of, withdraw_invites
from llmariner.tenancy.members.deprovisioning import revoke_keys
from llmariner.tenancy.members.removals import clear_removal, record_removal
from llmariner.tenancy.mutations import record_mutation, serialize_mutations
from llmariner.tenancy.organizations.active_projects import check_not_archived
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.delegation import (
    check_can_grant_organization_role,
    check_can_grant_project_role,
    check_can_revoke_organization_role,
    check_can_revoke_project_role,
    has_full_owner_rights,
)
from llmariner.tenancy.roles.effective_permissions import bump_revision
from llmariner.tenancy.sign_in.account_claims import open_claim_window
from llmariner.tenancy.tables import api_keys, is_human, organization_users, project_users, projects, users

__all__ = ["Member", "Members", "person_id_by_email"]

_ARCHIVED = "its members can't be changed"


@dataclass(frozen=True)
class Member:
    """A person in an organization, or (`project_id`) in a project of it. `created_at`: when the membership began."""

    user_id: str
    email: str
    name: str | None
    organization_id: str
    project_id: str | None
    role: str
    created_at: int


class Members:
    """The memberships of one installation. A caller acts in its own organization."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, caller: Caller, email: str, role: str) -> Member:
        """Add a person to the organization; the user is created if needed. Conflict if they are a member."""
        requested, organization_id = validators.validate_email(email, "user_id"), caller.organization_id
        with self._database.write() as session:
            serialize_mutations(session, caller)
            check_can_grant_organization_role(session, caller, organization_id, role)
            user_id = _get_or_create_person(session, requested)
            if _organization_role(session, organization_id, user_id) is not None:
                raise Conflict(f"'{requested}' is a member of the organization already.", param="user_id")
            open_claim_window(session, user_id)
            joined = {"organization_id": organization_id, "user_id": user_id, "created_at": int(time.time())}
            session.add(organization_users, **joined, role=role)
            clear_removal(session, organization_id, user_id)
            bump_revision(session, user_ids=[user_id])
            details = {"data": {"role": role, "email": requested}}
            record_mutation(session, caller, "user.added", user_id, details, organization_id=organization_id)
            withdraw_invites(session, caller, pending_invites_of(session, organization_id, requested))
        return self.get(organization_id, user_id)

    def get(self, organization_id: str, user_id: str) -> Member:
        """One person of an organization. NotFound otherwise."""
        with self._database.read() as session:
            return _load_member(session, organization_id, user_id)

    def all(self, organization_id: str, *, user_ids: Sequence[str] | None = None) -> list[Member]:
        """The people of an organization, or those among `user_ids`, by e-mail; hidden users are left out."""
        query = _in_organization(organization_id).where(users.c.hidden.is_(False))
        if user_ids is not None:
            query = query.where(users.c.id.in_(user_ids))
        with self._database.read() as session:
            return [_organization_member_from_row(row) for row in session.rows(query.order_by(users.c.email))]

    def set_role(self, caller: Caller, user_id: str, role: str) -> Member:
        """Change a person's role in the organization. InvalidRequest for its last owner."""
        organization_id = caller.organization_id
        with self._database.write() as session:
            serialize_mutations(session, caller)
            member = _load_member(session, organization_id, user_id)
            check_can_grant_organization_role(session, caller, organization_id, role)
            if role != member.role:
                check_can_revoke_organization_role(session, caller, organization_id, member.role)
            if member.role == "owner" and role != "owner":
                _check_not_last_owner(session, caller, member, "become less")
            open_claim_window(session, user_id)
            one = _membership_condition(organization_users, user_id, organization_id=organization_id)
            session.run(update(organization_users).where(one).values(role=role, of_group=False))
            bump_revision(session, user_ids=[user_id])
            details = {"changes_requested": {"role": role}}
            record_mutation(session, caller, "user.updated", user_id, details, organization_id=organization_id)
        return self.get(organization_id, user_id)

    def remove(self, caller: Caller, user_id: str) -> dict[str, list[str]]:
        """Remove a person from the organization. Returns the ids of what was removed with the membership.

        InvalidRequest for the last owner, PermissionDenied if the person holds more than the caller there or in a project.
        """
        organization_id = caller.organization_id
        with self._database.write() as session:
            revision = serialize_mutations(session, caller)
            member = _load_member(session, organization_id, user_id)
            check_can_revoke_organization_role(session, caller, organization_id, member.role)
            if member.role == "owner":
                _check_not_last_owner(session, caller, member, "leave")
            joined = _membership_condition(project_users, user_id, organization_id=organization_id)
            project_roles = session.rows(
                select(project_users.c.project_id, project_users.c.role, projects.c.archived_at)
                .join(projects, projects.c.id == project_users.c.project_id)
                .where(joined)
                .order_by(project_users.c.created_at)
            )
            for row in project_roles:
                if row.archived_at is None:
                    check_can_revoke_project_role(session, caller, organization_id, row.project_id, row.role)
            condition = and_(api_keys.c.user_id == user_id, api_keys.c.organization_id == organization_id)
            revoked_keys = revoke_keys(session, revision, condition)
            _discard_group_claims(session, organization_users, user_id, organization_id=organization_id)
            session.run(delete(project_users).where(joined))
            session.run(
                delete(organization_users).where(
                    _membership_condition(organization_users, user_id, organization_id=organization_id)
                )
            )
            record_removal(session, organization_id, user_id)
            bump_revision(session, user_ids=[user_id])
            removed = {"projects": [row.project_id for row in project_roles], "api_keys": revoked_keys}
            removed |= delete_rules(session, organization_id, "user", [user_id])
            record_mutation(
                session, caller, "user.deleted", user_id, {"removed": removed}, organization_id=organization_id
            )
        return removed

    def add_to_project(self, caller: Caller, project_id: str, user_id: str, role: str) -> Member:
        """Add a member of the organization to a project. Conflict if they are a member of the project."""
        organization_id = caller.organization_id
        with self._database.write() as session:
            serialize_mutations(session, caller)
            check_not_archived(session, organization_id, project_id, _ARCHIVED)
            check_can_grant_project_role(session, caller, organization_id, project_id, role)
            found = _find_member(session, _in_organization(organization_id), user_id)
            if found is None:
                raise InvalidRequest(
                    "Only a member of the organization can be in a project of it: add them to the organization first.",
                    param="user_id",
                )
            if _find_member(session, _in_project(project_id), user_id) is not None:
                raise Conflict(f"'{found.email}' is a member of the project already.", param="user_id")
            row = {"project_id": project_id, "user_id": user_id, "organization_id": organization_id, "role": role}
            session.add(project_users, **row, created_at=int(time.time()))
            clear_removal(session, organization_id, user_id, project_id)
            bump_revision(session, user_ids=[user_id])
            _record_assignment(session, caller, "role.assignment.created", project_id, user_id, role)
        return self.get_in_project(organization_id, project_id, user_id)

    def get_in_project(self, organization_id: str, project_id: str, user_id: str) -> Member:
        """One person of a project. NotFound otherwise."""
        with self._database.read() as session:
            return _load_project_member(session, organization_id, project_id, user_id)

    def of_project(self, organization_id: str, project_id: str) -> list[Member]:
        """The people of a project, by e-mail; hidden users are left out."""
        query = _in_project(project_id).where(project_users.c.organization_id == organization_id)
        with self._database.read() as session:
            rows = session.rows(query.where(users.c.hidden.is_(False)).order_by(users.c.email))
        return [_project_member_from_row(row) for row in rows]

    def set_role_in_project(self, caller: Caller, project_id: str, user_id: str, role: str) -> Member:
        """Change a person's role in a project."""
        organization_id = caller.organization_id
        with self._database.write() as session:
            serialize_mutations(session, caller)
            check_not_archived(session, organization_id, project_id, _ARCHIVED)
            member = _load_project_member(session, organization_id, project_id, user_id)
            check_can_grant_project_role(session, caller, organization_id, project_id, role)
            check_can_revoke_project_role(session, caller, organization_id, project_id, member.role)
            one = _membership_condition(project_users, user_id, project_id=project_id)
            session.run(update(project_users).where(one).values(role=role, of_group=False))
            bump_revision(session, user_ids=[user_id])
            # OpenAI's audit log has types for created and deleted assignments, none for changed ones.
            if role != member.role:
                _record_assignment(session, caller, "role.assignment.deleted", project_id, user_id, member.role)
                _record_assignment(session, caller, "role.assignment.created", project_id, user_id, role)
        return self.get_in_project(organization_id, project_id, user_id)

    def remove_from_project(self, caller: Caller, project_id: str, user_id: str) -> dict[str, list[str]]:
        """Remove a person from a project. Returns the ids of the revoked keys.

        An owner of the organization still owns its projects, and keeps their keys.
        """
        organization_id = caller.organization_id
        with self._database.write() as session:
            revision = serialize_mutations(session, caller)
            member = _load_project_member(session, organization_id, project_id, user_id)
            check_can_revoke_project_role(session, caller, organization_id, project_id, member.role)
            revoked_keys: list[str] = []
            if _organization_role(session, organization_id, user_id) != "owner":
                condition = and_(api_keys.c.user_id == user_id, api_keys.c.project_id == project_id)
                revoked_keys = revoke_keys(session, revision, condition)
            _discard_group_claims(session, project_users, user_id, project_id=project_id)
            session.run(
                delete(project_users).where(_membership_condition(project_users, user_id, project_id=project_id))
            )
            record_removal(session, organization_id, user_id, project_id)
            bump_revision(session, user_ids=[user_id])
            _record_assignment(
                session, caller, "role.assignment.deleted", project_id, user_id, member.role, api_keys=revoked_keys
            )
        return {"api_keys": revoked_keys}


def _discard_group_claims(session: WriteSession, table: Any, user_id: str, **place: str) -> None:
    """Make the release before `removals` ignore the group claims of tokens that the person holds already.

    Applies only if a group granted the membership: an owner who adds and removes a person in one organization must not
    affect what groups grant in another.
    """
    of_group = select(table.c.role).where(_membership_condition(table, user_id, **place), table.c.of_group).exists()
    project_roles = {"groups": None, "groups_at": int(time.time()) + 1}
    session.run(update(users).where(users.c.id == user_id, of_group).values(**project_roles))


def person_id_by_email(session: ReadSession, email: str) -> str | None:
    """The id of the person with that address; None if there is none."""
    found = session.value(select(users.c.id).where(users.c.email == email, is_human))
    return None if found is None else str(found)


def _get_or_create_person(session: WriteSession, email: str) -> str:
    """The id of the person with that address; the user is created if needed."""
    found = person_id_by_email(session, email)
    if found is None:
        found = new_id("user")
        session.add(users, id=found, email=email, created_at=int(time.time()))
    return found


def _in_organization(organization_id: str) -> Select[Any]:
    query = select(organization_users, users.c.email, users.c.name).join(users)
    return query.where(organization_users.c.organization_id == organization_id, is_human)


def _in_project(project_id: str) -> Select[Any]:
    query = select(project_users, users.c.email, users.c.name).join(users)
    return query.where(project_users.c.project_id == project_id, is_human)


def _find_member(session: ReadSession, query: Select[Any], user_id: str) -> Row[Any] | None:
    return session.first(query.where(users.c.id == user_id))


def _organization_role(session: ReadSession, organization_id: str, user_id: str) -> str | None:
    """The person's role in the organization; None if they are no member."""
    found = _find_member(session, _in_organization(organization_id), user_id)
    return None if found is None else str(found.role)


def _load_member(session: ReadSession, organization_id: str, user_id: str) -> Member:
    row = _find_member(session, _in_organization(organization_id), user_id)
    if row is None:
        raise NotFound(f"No user '{user_id}' in the organization.", param="user_id")
    return _organization_member_from_row(row)


def _load_project_member(session: ReadSession, organization_id: str, project_id: str, user_id: str) -> Member:
    query = _in_project(project_id).where(project_users.c.organization_id == organization_id)
    row = _find_member(session, query, user_id)
    if row is None:
        raise NotFound(f"No user '{user_id}' in the project.", param="user_id")
    return _project_member_from_row(row)


def _organization_member_from_row(row: Row[Any]) -> Member:
    return Member(row.user_id, row.email, row.name, row.organization_id, None, row.role, row.created_at)


def _project_member_from_row(row: Row[Any]) -> Member:
    return Member(row.user_id, row.email, row.name, row.organization_id, row.project_id, row.role, row.created_at)


def _membership_condition(table: Any, user_id: str, **place: str) -> Any:
    return and_(table.c.user_id == user_id, *(table.c[name] == value for name, value in place.items()))


def _check_not_last_owner(session: ReadSession, caller: Caller, owner: Member, what: str) -> None:
    if not has_full_owner_rights(caller):
        raise PermissionDenied(f"'{owner.email}' owns the organization: only an owner changes who owns it.")
    others = select(func.count()).select_from(organization_users.join(users))
    others = others.where(
        organization_users.c.organization_id == owner.organization_id,
        organization_users.c.role == "owner",
        organization_users.c.user_id != owner.user_id,
        is_human,
        users.c.hidden.is_(False),
    )
    if not session.value(others):
        raise InvalidRequest(
            f"'{owner.email}' is the last owner of the organization and can't {what}: make somebody else an owner first.",
            param="user_id",
            code="last_owner",
        )


def _record_assignment(
    session: WriteSession, caller: Caller, action: str, project_id: str, user_id: str, role: str, **more: list[str]
) -> None:
    resource = {"resource_id": project_id, "resource_type": "api.project"}
    details = {"id": role, "principal_id": user_id, "principal_type": "user", **resource, **more}
    place = {"organization_id": caller.organization_id, "project_id": project_id}
    record_mutation(session, caller, action, user_id, details, **place)
