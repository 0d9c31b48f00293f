"""Service accounts: users that are not people. Each belongs to one project and is deleted with it, or with its last key."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.errors import Conflict, NotFound, PermissionDenied
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy import validators
from llmariner.tenancy.members.deprovisioning import delete_service_account
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
from llmariner.tenancy.tables import organization_users, project_users, users

__all__ = ["ServiceAccount", "ServiceAccounts"]

_ARCHIVED = "no service account can be made or changed"


@dataclass(frozen=True)
class ServiceAccount:
    """A service account with its roles in its project (`role`) and organization. `email`: `system:serviceaccount:…`."""

    id: str
    email: str
    name: str
    organization_id: str
    project_id: str
    role: str
    organization_role: str
    created_at: int


class ServiceAccounts:
    """The service accounts of one installation. A caller acts in its own organization."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, caller: Caller, project_id: str, name: str, *, role: str = "member", organization_role: str = "reader"
    ) -> ServiceAccount:
        """Create a service account. Conflict if the project has one of that name.

        PermissionDenied for a role that the caller may not grant; only owners grant an organization role above `reader`.
        """
        with self._database.write() as session:
            account_id = self.create_in(session, caller, project_id, name, role, organization_role)
        return self.get(caller.organization_id, project_id, account_id)

    def create_in(
        self, session: WriteSession, caller: Caller, project_id: str, name: str, role: str, organization_role: str
    ) -> str:
        """As `create`, inside the given transaction; returns the id."""
        account_id, requested, now = new_id("user"), validators.validate_title(name, "name"), int(time.time())
        organization_id = caller.organization_id
        serialize_mutations(session, caller)
        check_not_archived(session, organization_id, project_id, _ARCHIVED)
        check_can_grant_project_role(session, caller, organization_id, project_id, role)
        if organization_role != "reader":
            check_can_grant_organization_role(session, caller, organization_id, organization_role)
            if not has_full_owner_rights(caller):
                raise PermissionDenied("Only an owner of the organization gives a service account such a role.")
        _check_name_free(session, project_id, requested)
        row = {"id": account_id, "email": _email(project_id, requested), "name": requested, "kind": "service_account"}
        session.add(users, **row, created_at=now)
        joined = {"organization_id": organization_id, "user_id": account_id, "created_at": now}
        session.add(organization_users, **joined, role=organization_role)
        session.add(project_users, **joined, project_id=project_id, role=role)
        details = {"data": {"role": role, "name": requested, "organization_role": organization_role}}
        _record(session, caller, "service_account.created", project_id, account_id, details)
        return account_id

    def get(self, organization_id: str, project_id: str, account_id: str) -> ServiceAccount:
        """One service account of a project. NotFound otherwise."""
        with self._database.read() as session:
            return _load(session, organization_id, project_id, account_id)

    def of_project(self, organization_id: str, project_id: str) -> list[ServiceAccount]:
        """The service accounts of a project, oldest first."""
        query = _ACCOUNTS.where(
            project_users.c.organization_id == organization_id, project_users.c.project_id == project_id
        )
        with self._database.read() as session:
            return [_account_from_row(row) for row in session.rows(query.order_by(users.c.created_at, users.c.id))]

    def update(
        self, caller: Caller, project_id: str, account_id: str, *, name: str | None = None, role: str | None = None
    ) -> ServiceAccount:
        """Change the name or the role in its project. Conflict if the name is in use."""
        organization_id = caller.organization_id
        with self._database.write() as session:
            serialize_mutations(session, caller)
            check_not_archived(session, organization_id, project_id, _ARCHIVED)
            account = _load(session, organization_id, project_id, account_id)
            _check_can_revoke_roles(session, caller, account)
            if name is not None and validators.validate_title(name, "name") != account.name:
                requested = validators.validate_title(name, "name")
                _check_name_free(session, project_id, requested)
                renamed = {"name": requested, "email": _email(project_id, requested)}
                session.run(update(users).where(users.c.id == account_id).values(**renamed))
            if role is not None and role != account.role:
                check_can_grant_project_role(session, caller, organization_id, project_id, role)
                session.run(update(project_users).where(project_users.c.user_id == account_id).values(role=role))
            bump_revision(session, user_ids=[account_id])
            details = {"changes_requested": {"name": name, "role": role}}
            _record(session, caller, "service_account.updated", project_id, account_id, details)
        return self.get(organization_id, project_id, account_id)

    def delete(self, caller: Caller, project_id: str, account_id: str) -> dict[str, list[str]]:
        """Delete a service account. Returns the ids of the keys that were revoked with it."""
        with self._database.write() as session:
            revision = serialize_mutations(session, caller)
            _check_can_revoke_roles(session, caller, _load(session, caller.organization_id, project_id, account_id))
            removed = {"api_keys": delete_service_account(session, revision, account_id)}
            _record(session, caller, "service_account.deleted", project_id, account_id, {"removed": removed})
        return removed


_ACCOUNTS = (
    select(users, project_users.c.project_id, project_users.c.role, organization_users.c.organization_id)
    .add_columns(organization_users.c.role.label("organization_role"))
    .join_from(users, project_users, project_users.c.user_id == users.c.id)
    .join(organization_users, organization_users.c.user_id == users.c.id)
    .where(users.c.kind == "service_account")
)


def _email(project_id: str, name: str) -> str:
    """The value of the column `email`; no person's address begins so (`platform.identity.email_addresses`)."""
    return f"system:serviceaccount:{project_id}:{name}"


def _account_from_row(row: Row[Any]) -> ServiceAccount:
    return ServiceAccount(
        id=row.id,
        email=row.email,
        name=row.name,
        organization_id=row.organization_id,
        project_id=row.project_id,
        role=row.role,
        organization_role=row.organization_role,
        created_at=row.created_at,
    )


def _load(session: ReadSession, organization_id: str, project_id: str, account_id: str) -> ServiceAccount:
    query = _ACCOUNTS.where(
        users.c.id == account_id,
        project_users.c.project_id == project_id,
        project_users.c.organization_id == organization_id,
    )
    row = session.first(query)
    if row is None:
        raise NotFound(f"No service account with id '{account_id}' in the project.", param="service_account_id")
    return _account_from_row(row)


def _check_can_revoke_roles(session: ReadSession, caller: Caller, account: ServiceAccount) -> None:
    """PermissionDenied if the account holds more permissions than the caller, in its project or in the organization."""
    check_can_revoke_organization_role(session, caller, account.organization_id, account.organization_role)
    check_can_revoke_project_role(session, caller, account.organization_id, account.project_id, account.role)


def _check_name_free(session: ReadSession, project_id: str, name: str) -> None:
    if session.first(select(users.c.id).where(users.c.email == _email(project_id, name))) is not None:
        raise Conflict(f"The project has a service account named '{name}'; choose another name.", param="name")


def _record(
    session: WriteSession, caller: Caller, action: str, project_id: str, account_id: str, details: dict[str, Any]
) -> None:
    record_mutation(
        session, caller, action, account_id, details, organization_id=caller.organization_id, project_id=project_id
    )
