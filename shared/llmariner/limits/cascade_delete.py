"""Deletes the limits and budgets of deleted projects, users, keys and organizations."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, delete, select

from llmariner.limits.revisions import record_rule_changes
from llmariner.limits.tables import allowances, budgets, limits
from llmariner.platform.database import WriteSession
from llmariner.platform.database.revisions import next_revision

__all__ = ["delete_rules"]


def delete_rules(
    session: WriteSession, organization_id: str, kind: str | None = None, ids: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Delete the limits and budgets of these subjects of an organization; without a kind, all of its limits and budgets.

    Returns the deleted ids by table name. Usage stays in the ledger.
    """
    found: dict[str, list[str]] = {}
    subjects: set[tuple[str, str]] = set()
    for table in (limits, budgets):
        condition = table.c.organization_id == organization_id
        if kind is not None:
            condition = and_(condition, table.c.subject == kind, table.c.subject_id.in_(ids))
        query = select(table.c.id, table.c.subject, table.c.subject_id).where(condition).order_by(table.c.id)
        rows = session.rows(query)
        found[table.name] = [row.id for row in rows]
        subjects.update((row.subject, row.subject_id) for row in rows)
    if not subjects:
        return found
    record_rule_changes(session, next_revision(session, "limits"), subjects)
    for table in (limits, budgets):
        session.run(delete(table).where(table.c.id.in_(found[table.name])))
    session.run(delete(allowances).where(allowances.c.id.in_([*found["limits"], *found["budgets"]])))
    return found
