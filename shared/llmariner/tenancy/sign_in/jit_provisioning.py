"""Just-in-time provisioning: reconciles a person's memberships with their invitations and groups when they sign in.

Groups grant and revoke only memberships that a group granted; memberships that people created stay unchanged. An
organization's last owner is never removed. The group claims of a token apply until a newer token has others. Groups do not
add a person whom an owner removed until someone adds them explicitly.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select, update

from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.identity import Identity
from llmariner.tenancy.invitations.pending import is_inviter_authorized, is_pending
from llmariner.tenancy.members.deprovisioning import revoke_keys
from llmariner.tenancy.members.removals import clear_removal, removals_of
from llmariner.tenancy.mutations import record_mutation
from llmariner.tenancy.roles.effective_permissions import bump_revision
from llmariner.tenancy.tables import (
    api_keys,
    group_roles,
    invites,
    is_human,
    organization_users,
    organizations,
    project_users,
    projects,
    user_groups,
    users,
)

__all__ = ["MembershipReconciliation", "reconcile_memberships"]

# Among the roles of several groups the first of these is granted; `role_` is the prefix of custom roles.
_ROLE_PRECEDENCE = ("owner", "role_", "member", "tenant_system", "reader", "viewer")


@dataclass(frozen=True)
class _Resource:
    """An organization, or one of its projects."""

    organization_id: str
    project_id: str | None = None


@dataclass(frozen=True)
class _Mutation:
    name: str
    subject_id: str
    resource: _Resource
    details: dict[str, Any]


@dataclass(frozen=True)
class _Membership:
    role: str
    of_group: bool


class MembershipReconciliation:
    """The difference between a person's memberships and those that their invitations and groups give.

    The constructor reads the current state; `reconcile_memberships` writes the changes. `default_role`: what a person gets
    whom neither an invitation nor a group gives a role: `reader` of the default organization, `member` of its default
    project, or `none`.
    """

    def __init__(self, session: ReadSession, user_id: str, identity: Identity, *, default_role: str = "none") -> None:
        self.user_id = user_id
        person = session.first(select(users.c.email, users.c.groups_at).where(users.c.id == user_id))
        assert person is not None
        self._email, self._issuer = str(person.email), identity.issuer
        self._stored_groups = _load_groups(session, user_id)
        self._memberships = dict(_load_memberships(session, user_id))
        # Only for a token with the invited address, verified by the issuer.
        has_verified_email = identity.email_verified and identity.email == self._email
        self._invites = list(_redeemable_invites(session, self._email)) if has_verified_email else []
        has_newer_groups = identity.groups is not None and identity.issued_at >= (person.groups_at or 0)
        self._groups = frozenset(identity.groups or ()) if has_newer_groups else self._stored_groups
        self._issued_at = identity.issued_at
        self._group_grants = (
            _roles_from_groups(session, identity, removals_of(session, user_id)) if has_newer_groups else None
        )
        self._solely_owned = self._find_solely_owned(session)
        self._default_grants = _default_roles(session, user_id, default_role)
        self.mutations: list[_Mutation] = []

    def has_changes(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._invites) or bool(self._group_changes()) or self._groups != self._stored_groups

    def apply(self, session: WriteSession, revision: int) -> None:
        """Write the changes and collect `mutations`, which `reconcile_memberships` records afterwards."""
        for invite in self._invites:
            membership = self._memberships.get(_Resource(invite.organization_id))
            if membership is not None and not membership.of_group:
                self._withdraw(session, invite)
            else:
                self._accept(session, invite)
        # Other reconciliations of the same transaction may have removed owners since the constructor read them.
        self._solely_owned = self._find_solely_owned(session)
        for resource, role in sorted(self._group_changes().items(), key=lambda each: each[0].project_id is not None):
            if role is None:
                self._remove(session, revision, resource)
            else:
                self._grant(session, resource, role, of_group=True)
        if self._group_grants is not None:
            self._store_groups(session)
        if not self._memberships:
            for resource, role in self._default_grants:
                self._grant(session, resource, role, of_group=False)

    def _find_solely_owned(self, session: ReadSession) -> frozenset[_Resource]:
        """The organizations of which the person is the last owner."""
        return frozenset(
            resource
            for resource, membership in self._memberships.items()
            if _is_last_owner(session, self.user_id, resource, membership)
        )

    def _group_changes(self) -> dict[_Resource, str | None]:
        """The changes that groups require; None: remove the membership. Empty if the token has no newer group claims."""
        if self._group_grants is None:
            return {}
        changes: dict[_Resource, str | None] = {
            resource: role
            for resource, role in self._group_grants.items()
            if resource not in self._solely_owned
            and (
                (membership := self._memberships.get(resource)) is None
                or (membership.of_group and membership.role != role)
            )
        }
        revoked = {
            resource
            for resource, membership in self._memberships.items()
            if membership.of_group and resource not in self._group_grants
        }
        revoked -= self._solely_owned
        ending = {resource.organization_id for resource in revoked if resource.project_id is None}
        # Memberships in projects end with the membership in their organization.
        revoked |= {resource for resource in self._memberships if resource.organization_id in ending}
        return {**changes, **dict.fromkeys(revoked)}

    def _store_groups(self, session: WriteSession) -> None:
        columns = {"groups": json.dumps(sorted(self._groups)), "groups_at": self._issued_at}
        session.run(update(users).where(users.c.id == self.user_id).values(**columns))
        if revoked := self._stored_groups - self._groups:
            obsolete = and_(user_groups.c.user_id == self.user_id, user_groups.c.name.in_(sorted(revoked)))
            session.run(user_groups.delete().where(obsolete))
        new = sorted(self._groups - self._stored_groups)
        rows = [{"user_id": self.user_id, "name": name, "issuer": self._issuer} for name in new]
        session.insert_many_if_absent(user_groups, rows)

    def _withdraw(self, session: WriteSession, invite: Any) -> None:
        """Revoke an invitation of a person who is a member by other means: it would change nothing."""
        session.run(update(invites).where(invites.c.id == invite.id).values(revoked_at=int(time.time())))
        details = {"reason": "became_a_member"}
        self.mutations.append(_Mutation("invite.deleted", invite.id, _Resource(invite.organization_id), details))

    def _accept(self, session: WriteSession, invite: Any) -> None:
        """Accept an invitation: it replaces memberships that groups granted; archived projects are left out."""
        organization_id = invite.organization_id
        grants = [(_Resource(organization_id), invite.role)]
        for each in json.loads(invite.projects):
            live = and_(projects.c.organization_id == organization_id, projects.c.archived_at.is_(None))
            if session.value(select(projects.c.id).where(projects.c.id == each["id"], live)) is not None:
                grants.append((_Resource(organization_id, each["id"]), each["role"]))
        for resource, role in grants:
            membership = self._memberships.get(resource)
            if membership is None or membership.of_group:
                self._grant(session, resource, role, of_group=False)
        clear_removal(session, organization_id, self.user_id)
        session.run(update(invites).where(invites.c.id == invite.id).values(accepted_at=int(time.time())))
        details = {"user_id": self.user_id, "email": self._email}
        self.mutations.append(_Mutation("invite.accepted", invite.id, _Resource(organization_id), details))

    def _grant(self, session: WriteSession, resource: _Resource, role: str, *, of_group: bool) -> None:
        table, one = self._row(resource)
        membership = self._memberships.get(resource)
        if membership is None:
            key = {"organization_id": resource.organization_id, "user_id": self.user_id}
            key |= {"project_id": resource.project_id} if resource.project_id else {}
            session.add(table, **key, role=role, of_group=of_group, created_at=int(time.time()))
        else:
            session.run(update(table).where(one).values(role=role, of_group=of_group))
        self._memberships[resource] = _Membership(role, of_group)
        if membership is None or membership.role != role:
            self._record(resource, membership, role)

    def _remove(self, session: WriteSession, revision: int, resource: _Resource) -> None:
        """Remove a membership, and revoke the person's keys there."""
        table, one = self._row(resource)
        session.run(table.delete().where(one))
        membership = self._memberships.pop(resource)
        condition = api_keys.c.organization_id == resource.organization_id
        if resource.project_id:
            condition = and_(condition, api_keys.c.project_id == resource.project_id)
        revoke_keys(session, revision, and_(condition, api_keys.c.user_id == self.user_id))
        self._record(resource, membership, None)

    def _row(self, resource: _Resource) -> tuple[Any, Any]:
        table = project_users if resource.project_id else organization_users
        one = and_(table.c.user_id == self.user_id, table.c.organization_id == resource.organization_id)
        return table, and_(one, table.c.project_id == resource.project_id) if resource.project_id else one

    def _record(self, resource: _Resource, before: _Membership | None, role: str | None) -> None:
        """Collect the mutation of a changed membership, in the terms of `record_mutation`."""
        if resource.project_id is not None:
            assignment = {"principal_id": self.user_id, "principal_type": "user"}
            assignment |= {"resource_id": resource.project_id, "resource_type": "api.project"}
            for change, role_id in (("deleted", before.role if before else None), ("created", role)):
                if role_id is not None:
                    self.mutations.append(
                        _Mutation(f"role.assignment.{change}", self.user_id, resource, {"id": role_id, **assignment})
                    )
        elif role is None:
            self.mutations.append(_Mutation("user.deleted", self.user_id, resource, {}))
        elif before is None:
            details = {"data": {"role": role, "email": self._email}}
            self.mutations.append(_Mutation("user.added", self.user_id, resource, details))
        else:
            self.mutations.append(
                _Mutation("user.updated", self.user_id, resource, {"changes_requested": {"role": role}})
            )


def reconcile_memberships(
    session: WriteSession, revision: int, reconciliations: Sequence[MembershipReconciliation]
) -> None:
    """Apply all reconciliations and record their mutations.

    Must be the last call of a transaction that called `serialize_mutations`, which returned `revision`. Each audit entry
    locks the chain of its organization, so all entries are appended at the end, ordered by organization.
    """
    for reconciliation in reconciliations:
        reconciliation.apply(session, revision)
    bump_revision(session, user_ids=[each.user_id for each in reconciliations if each.mutations])
    mutations = [mutation for each in reconciliations for mutation in each.mutations]
    for mutation in sorted(mutations, key=lambda mutation: mutation.resource.organization_id):
        record_mutation(
            session,
            None,
            mutation.name,
            mutation.subject_id,
            mutation.details,
            organization_id=mutation.resource.organization_id,
            project_id=mutation.resource.project_id,
        )


def _load_groups(session: ReadSession, user_id: str) -> frozenset[str]:
    rows = session.rows(select(user_groups.c.name).where(user_groups.c.user_id == user_id))
    return frozenset(row.name for row in rows)


def _load_memberships(session: ReadSession, user_id: str) -> Iterable[tuple[_Resource, _Membership]]:
    for row in session.rows(select(organization_users).where(organization_users.c.user_id == user_id)):
        yield _Resource(row.organization_id), _Membership(row.role, row.of_group)
    for row in session.rows(select(project_users).where(project_users.c.user_id == user_id)):
        yield _Resource(row.organization_id, row.project_id), _Membership(row.role, row.of_group)


def _is_last_owner(session: ReadSession, user_id: str, resource: _Resource, membership: _Membership) -> bool:
    if resource.project_id is not None or membership.role != "owner":
        return False
    people = organization_users.join(users)
    others = (
        select(users.c.id)
        .select_from(people)
        .where(
            organization_users.c.organization_id == resource.organization_id,
            organization_users.c.role == "owner",
            organization_users.c.user_id != user_id,
            is_human,
            users.c.hidden.is_(False),
        )
    )
    return session.first(others) is None


def _redeemable_invites(session: ReadSession, email: str) -> Iterable[Any]:
    query = select(invites).where(is_pending(email=email)).order_by(invites.c.created_at, invites.c.id)
    return (row for row in session.rows(query) if is_inviter_authorized(session, row))


def _roles_from_groups(
    session: ReadSession, identity: Identity, removed: frozenset[tuple[str, str | None]]
) -> dict[_Resource, str] | None:
    """The highest role that the person's groups grant per organization and project, except where the person was removed.

    None if the token has no group claims.
    """
    if identity.groups is None:
        return None
    query = (
        select(group_roles)
        .outerjoin(projects, projects.c.id == group_roles.c.project_id)
        .where(
            group_roles.c.issuer == identity.issuer,
            group_roles.c.group_name.in_(identity.groups),
            projects.c.archived_at.is_(None),
        )
    )
    grants: dict[_Resource, str] = {}
    for row in session.rows(query):
        resource = _Resource(row.organization_id, row.project_id)
        if (row.organization_id, None) in removed:
            continue
        if (row.organization_id, row.project_id) not in removed:
            grants[resource] = min(grants.get(resource, row.role), row.role, key=_precedence)
        # A member of a project must be a member of its organization.
        grants.setdefault(_Resource(row.organization_id), "reader")
    return grants


def _precedence(role: str) -> tuple[int, str]:
    ranks = (rank for rank, prefix in enumerate(_ROLE_PRECEDENCE) if role.startswith(prefix))
    return next(ranks, len(_ROLE_PRECEDENCE)), role


def _default_roles(session: ReadSession, user_id: str, role: str) -> list[tuple[_Resource, str]]:
    """The roles of a person without invitations and group roles; empty where an owner removed them."""
    if role == "none":
        return []
    organization_id = session.value(select(organizations.c.id).where(organizations.c.is_default))
    removed = removals_of(session, user_id)
    if organization_id is None or (organization_id, None) in removed:
        return []
    grants = [(_Resource(organization_id), "reader")]
    project_id = session.value(
        select(projects.c.id).where(projects.c.organization_id == organization_id, projects.c.is_default)
    )
    if role != "member" or project_id is None or (organization_id, project_id) in removed:
        return grants
    return [*grants, (_Resource(organization_id, project_id), "member")]
