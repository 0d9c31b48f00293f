"""Reconciles the memberships of all known members of a group after one of its group roles changed.

It works in batches, each its own transaction, because all mutations wait for one another and a group may have thousands of
members. Idempotent.
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

from sqlalchemy import Row, Select, and_, exists, or_, select

from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.identity import Identity
from llmariner.tenancy.mutations import serialize_mutations
from llmariner.tenancy.sign_in.jit_provisioning import MembershipReconciliation, reconcile_memberships
from llmariner.tenancy.tables import user_groups, users

__all__ = ["reconcile_group"]

_BATCH_SIZE = 25
_TIME_BUDGET_SECONDS = 20.0
# The length of the table's column; longer group names are not stored.
_MAX_NAME_LENGTH = 256


def reconcile_group(
    database: Database, issuer: str, group: str, after: str = "", *, seconds: float = _TIME_BUDGET_SECONDS
) -> str:
    """Reconcile the members of a group with ids above `after`, for about `seconds`.

    Returns the id of the last reconciled member; empty when all are done.
    """
    deadline = time.monotonic() + seconds
    while True:
        with database.read() as session:
            people = session.rows(_member_query(issuer, group).where(users.c.id > after).limit(_BATCH_SIZE))
            pending = [person.id for person in people if _reconciliation(session, person).has_changes()]
        if pending:
            batch = _member_query(issuer, group).where(users.c.id.in_(pending))
            database.transact(partial(_reconcile, people=batch))
        if len(people) < _BATCH_SIZE:
            return ""
        after = people[-1].id
        if time.monotonic() >= deadline:
            return after


def _reconcile(session: WriteSession, people: Select[Any]) -> None:
    revision = serialize_mutations(session)
    reconcile_memberships(session, revision, [_reconciliation(session, person) for person in session.rows(people)])


def _member_query(issuer: str, group: str) -> Select[Any]:
    """The members of a group by `user_groups`, or by the column `users.groups`, which the previous release writes.

    The condition on the column scans all users of the issuer.
    """
    one = and_(user_groups.c.issuer == issuer, user_groups.c.name == group, user_groups.c.user_id == users.c.id)
    condition = or_(exists().where(one), users.c.groups.contains(json.dumps(group), autoescape=True))
    query = select(users.c.id, users.c.issuer, users.c.subject, users.c.groups, users.c.groups_at)
    return query.where(users.c.issuer == issuer, condition).order_by(users.c.id)


def _reconciliation(session: ReadSession, person: Row[Any]) -> MembershipReconciliation:
    """The reconciliation for a token that repeats the group claims of the person's newest one."""
    at = person.groups_at or 0
    identity = Identity(
        issuer=person.issuer,
        subject=person.subject,
        email=None,
        email_verified=False,
        name=None,
        groups=_group_claims(session, person),
        signed_in_at=at,
        issued_at=at,
        expires_at=0,
    )
    return MembershipReconciliation(session, person.id, identity)


def _group_claims(session: ReadSession, person: Row[Any]) -> frozenset[str]:
    """The group claims of the person's newest token, as stored by this release or by the previous one, which may run, too.

    The previous release writes the column only; it is NULL for people who were removed.
    """
    if person.groups is None:
        rows = session.rows(select(user_groups.c.name).where(user_groups.c.user_id == person.id))
        return frozenset(row.name for row in rows)
    return frozenset(name for name in json.loads(person.groups) if len(name) <= _MAX_NAME_LENGTH)
