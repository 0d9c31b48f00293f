"""What goes with somebody or something that leaves: the limits and budgets that bind nobody any more."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, delete, select

from llmariner.limits.tables import allowances, budgets, limits
from llmariner.platform.database import WriteSession
from llmariner.platform.database.revisions import next_revision

__all__ = ["end_rules"]


def end_rules(
    session: WriteSession, organization_id: str, kind: str | None = None, ids: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Take away what binds these projects, users or keys of an organisation; without a kind, all of it. Returns ids by noun.

    What was spent stays in the ledger.
    """
    found = {}
    for table in (limits, budgets):
        which = table.c.organization_id == organization_id
        if kind is not None:
            which = and_(which, table.c.subject == kind, table.c.subject_id.in_(ids))
        found[table.name] = [row.id for row in session.rows(select(table.c.id).where(which).order_by(table.c.id))]
    if not any(found.values()):
        return found
    next_revision(session, "limits")  # so that gateways ask anew
    for table in (limits, budgets):
        session.run(delete(table).where(table.c.id.in_(found[table.name])))
    session.run(delete(allowances).where(allowances.c.id.in_([*found["limits"], *found["budgets"]])))
    return found
