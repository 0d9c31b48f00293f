"""Organizations: created by owners of the default organization, deleted by their own owners.

The row of a deleted organization is kept, without members and under another title, for usage and the audit log.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, func, select, update

from llmariner.clusters.tables import clusters
from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.identifiers import new_id
from llmariner.limits.cascade_delete import delete_rules
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy import validators
from llmariner.tenancy.members.deprovisioning import revoke_keys
from llmariner.tenancy.mutations import record_mutation, serialize_mutations
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles import access_scope
from llmariner.tenancy.roles.effective_permissions import bump_revision, resolve_permissions
from llmariner.tenancy.tables import (
    api_keys,
    custom_roles,
    group_roles,
    groups,
    invites,
    is_human,
    organization_users,
    organizations,
    project_users,
    projects,
    users,
)

__all__ = ["Organization", "Organizations", "Summary"]

# Leaves room for the suffix that deletion adds to the title.
_MAX_TITLE_LENGTH = 200


@dataclass(frozen=True)
class Organization:
    """An organization."""

    id: str
    title: str
    is_default: bool
    created_at: int


@dataclass(frozen=True)
class Summary:
    """The numbers of unarchived projects and of people in an organization."""

    projects: int = 0
    people: int = 0


class Organizations:
    """The organizations of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, caller: Caller, title: str) -> Organization:
        """Create an organization owned by the caller. Conflict if the title is in use.

        PermissionDenied unless the caller owns the default organization.
        """
        requested, organization_id = (
            validators.validate_selectable_title(title, max_length=_MAX_TITLE_LENGTH),
            new_id("org"),
        )
        now = int(time.time())
        with self._database.write() as session:
            serialize_mutations(session, caller)
            _check_owns_default_organization(session, caller)
            _check_title_free(session, requested)
            session.add(organizations, id=organization_id, title=requested, is_default=False, created_at=now)
            joined = {"user_id": caller.user_id, "role": "owner", "created_at": now}
            session.add(organization_users, organization_id=organization_id, **joined)
            bump_revision(session, user_ids=[caller.user_id])
            _record(session, caller, "organization.created", organization_id, {"data": {"title": requested}})
        return Organization(organization_id, requested, False, now)

    def get(self, organization_id: str) -> Organization:
        """One organization. NotFound otherwise."""
        with self._database.read() as session:
            return _load(session, organization_id)

    def accessible_to(self, caller: Caller) -> list[Organization]:
        """The organizations that the caller has access to; the default one first, then by age."""
        query = select(organizations).join(organization_users).where(organization_users.c.user_id == caller.user_id)
        order = (organizations.c.is_default.desc(), organizations.c.created_at, organizations.c.id)
        with self._database.read() as session:
            found = [_organization_from_row(row) for row in session.rows(query.order_by(*order))]
            accessible = access_scope.accessible_organization_ids(session, caller, [each.id for each in found])
        return [each for each in found if each.id in accessible]

    def summarize(self, organization_ids: Sequence[str]) -> dict[str, Summary]:
        """The summary of each organization."""
        of_them = projects.c.organization_id.in_(organization_ids)
        live = select(projects.c.organization_id, func.count().label("number")).where(
            of_them, projects.c.archived_at.is_(None)
        )
        members = select(organization_users.c.organization_id, func.count().label("number")).join(users)
        people = members.where(
            organization_users.c.organization_id.in_(organization_ids),
            is_human,
            users.c.hidden.is_(False),
        )
        with self._database.read() as session:
            project_counts = _counts(session.rows(live.group_by(projects.c.organization_id)))
            people_counts = _counts(session.rows(people.group_by(organization_users.c.organization_id)))
        return {each: Summary(project_counts.get(each, 0), people_counts.get(each, 0)) for each in organization_ids}

    def rename(self, caller: Caller, title: str) -> Organization:
        """Change the title of the caller's organization. Conflict if it is in use."""
        requested, organization_id = (
            validators.validate_selectable_title(title, max_length=_MAX_TITLE_LENGTH),
            caller.organization_id,
        )
        with self._database.write() as session:
            serialize_mutations(session, caller)
            _check_title_free(session, requested, exclude=organization_id)
            _set_title(session, organization_id, requested)
            details = {"changes_requested": {"title": requested}}
            _record(session, caller, "organization.updated", organization_id, details)
        return self.get(organization_id)

    def delete(self, caller: Caller) -> dict[str, list[str]]:
        """Delete the caller's organization. Returns what was removed with it: members by e-mail, the rest by id.

        InvalidRequest for the default one, and while it has projects; the error lists them.
        """
        organization_id = caller.organization_id
        with self._database.write() as session:
            revision = serialize_mutations(session, caller)
            organization = _load(session, organization_id)
            if organization.is_default:
                raise InvalidRequest(
                    "The default organization can't be deleted: its owners run this installation.",
                    param="organization_id",
                    code="default_organization",
                )
            _check_no_projects(session, organization_id)
            removed = _delete_dependents(session, revision, organization_id) | delete_rules(session, organization_id)
            _set_title(session, organization_id, f"{organization.title} (deleted {organization_id})")
            _record(session, caller, "organization.deleted", organization_id, {"removed": removed})
        return removed


def _check_title_free(session: ReadSession, title: str, *, exclude: str = "") -> None:
    existing = session.rows(select(organizations.c.title).where(organizations.c.id != exclude))
    if validators.skeleton(title) in {validators.skeleton(row.title) for row in existing}:
        raise Conflict(f"An organization titled '{title}' exists already; choose another title.", param="title")


def _check_owns_default_organization(session: ReadSession, caller: Caller) -> None:
    """PermissionDenied unless the caller owns the default organization, as a person or with a key of that organization."""
    default = session.value(select(organizations.c.id).where(organizations.c.is_default))
    permissions = resolve_permissions(session, caller.user_id, str(default), None)
    elsewhere = caller.key_id is not None and caller.organization_id != default
    if permissions.organization_role != "owner" or elsewhere:
        raise PermissionDenied("Only an owner of the default organization makes organizations.")


def _check_no_projects(session: ReadSession, organization_id: str) -> None:
    query = select(projects.c.id, projects.c.title).where(
        projects.c.organization_id == organization_id, projects.c.archived_at.is_(None)
    )
    found = session.rows(query.order_by(projects.c.created_at, projects.c.id))
    if found:
        raise InvalidRequest(
            f"The organization has projects: {', '.join(row.title for row in found[:10])}. Delete them first.",
            param="organization_id",
            code="in_use",
            details={"in_the_way": {"projects": [{"id": row.id, "title": row.title} for row in found]}},
        )


def _delete_dependents(session: WriteSession, revision: int, organization_id: str) -> dict[str, list[str]]:
    revoked_keys = revoke_keys(session, revision, api_keys.c.organization_id == organization_id)
    members = session.rows(
        select(users.c.id, users.c.email)
        .join(organization_users)
        .where(organization_users.c.organization_id == organization_id)
        .order_by(users.c.email)
    )
    pending = (
        invites.c.organization_id == organization_id,
        invites.c.accepted_at.is_(None),
        invites.c.revoked_at.is_(None),
    )
    revoked_invites = [row.id for row in session.rows(select(invites.c.id).where(*pending))]
    session.run(update(invites).where(*pending).values(revoked_at=int(time.time())))
    removed = {"users": [row.email for row in members], "api_keys": revoked_keys, "invites": revoked_invites}
    for kind, table in (
        ("roles", custom_roles),
        ("group_roles", group_roles),
        ("groups", groups),
        ("clusters", clusters),
    ):
        condition = table.c.organization_id == organization_id
        removed[kind] = [row.id for row in session.rows(select(table.c.id).where(condition).order_by(table.c.id))]
        session.run(delete(table).where(condition))
    for table in (project_users, organization_users):
        session.run(delete(table).where(table.c.organization_id == organization_id))
    bump_revision(session, user_ids=[row.id for row in members])
    return removed


def _load(session: ReadSession, organization_id: str) -> Organization:
    row = session.first(select(organizations).where(organizations.c.id == organization_id))
    if row is None:
        raise NotFound(f"No organization with id '{organization_id}'.", param="organization_id")
    return _organization_from_row(row)


def _organization_from_row(row: Row[Any]) -> Organization:
    return Organization(row.id, row.title, row.is_default, row.created_at)


def _counts(rows: Sequence[Row[Any]]) -> dict[str, int]:
    return {row.organization_id: row.number for row in rows}


def _set_title(session: WriteSession, organization_id: str, title: str) -> None:
    session.run(update(organizations).where(organizations.c.id == organization_id).values(title=title))


def _record(session: WriteSession, caller: Caller, action: str, organization_id: str, details: dict[str, Any]) -> None:
    record_mutation(session, caller, action, organization_id, details, organization_id=organization_id)
