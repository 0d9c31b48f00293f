"""Deprovisioning: revokes the keys and deletes the service accounts and memberships of a removed user or project.

All functions run inside a mutation that called `serialize_mutations` and take its revision. Rows of keys and service
accounts are kept, since usage and the audit log refer to them; so are rows of people, who may belong elsewhere.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, select, update

from llmariner.limits.cascade_delete import delete_rules
from llmariner.platform.database import WriteSession
from llmariner.platform.events import outbox
from llmariner.tenancy.tables import api_keys, organization_users, project_users, users

__all__ = ["delete_service_account", "delete_service_accounts", "revoke_keys"]

_REVOKED = "ai.llmariner.api_key.revoked.v1"


def revoke_keys(session: WriteSession, revision: int, which: ColumnElement[bool]) -> list[str]:
    """Revoke the unrevoked keys that match the condition; returns their ids. All instances refuse them within 2 s.

    The limits and budgets of the keys are deleted.
    """
    live = and_(which, api_keys.c.revoked_at.is_(None))
    rows = session.rows(select(api_keys).where(live).order_by(api_keys.c.created_at, api_keys.c.id))
    session.run(update(api_keys).where(live).values(revoked_at=time.time(), revision=revision))
    for row in rows:
        outbox.add(session, _REVOKED, f"api_keys/{row.id}", _event_data(row._mapping))
    for organization_id in sorted({row.organization_id for row in rows}):
        delete_rules(session, organization_id, "key", [row.id for row in rows])
    return [row.id for row in rows]


def delete_service_account(session: WriteSession, revision: int, user_id: str) -> list[str]:
    """Delete a service account with its keys and memberships; returns the ids of the keys. Its name can be used again."""
    revoked_keys = revoke_keys(session, revision, api_keys.c.user_id == user_id)
    for row in session.rows(
        select(organization_users.c.organization_id).where(organization_users.c.user_id == user_id)
    ):
        delete_rules(session, row.organization_id, "user", [user_id])
    for table in (project_users, organization_users):
        session.run(delete(table).where(table.c.user_id == user_id))
    columns = {"email": f"system:serviceaccount:{user_id}", "hidden": True, "revision": revision}
    session.run(update(users).where(users.c.id == user_id).values(**columns))
    return revoked_keys


def delete_service_accounts(session: WriteSession, revision: int, project_id: str) -> tuple[list[str], list[str]]:
    """Delete the service accounts of a project; returns their names, and the ids of their keys."""
    query = select(users.c.id, users.c.name).join(project_users, project_users.c.user_id == users.c.id)
    of_it = query.where(project_users.c.project_id == project_id, users.c.kind == "service_account")
    names, revoked_keys = [], []
    for row in session.rows(of_it.order_by(users.c.created_at, users.c.id)):
        names.append(row.name)
        revoked_keys += delete_service_account(session, revision, row.id)
    return names, revoked_keys


def _event_data(key: Any) -> dict[str, Any]:
    return {name: key[name] for name in ("id", "name", "user_id", "project_id", "organization_id")}
