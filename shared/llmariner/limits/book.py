"""What the ledger says of a rule: the truth about processes that fell silent and periods that began."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Table, and_, func, or_, select

from llmariner.gateway.control import Amounts, Rule
from llmariner.limits.rules import ALL_MODELS
from llmariner.platform.database import ReadSession
from llmariner.usage.folding import INTERRUPTED, OPEN
from llmariner.usage.tables import ledger_days, ledger_project_days, ledger_requests

__all__ = ["LedgerBook"]


class LedgerBook:
    """See `account.Book`."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session

    def unreported(self, rule: Rule, replica: str, since: float) -> Amounts:
        """Requests admitted since, and tokens and money of what was still open then; request ids begin with the process.

        What ended in the process's last half second never reached the ledger.
        """
        table = ledger_requests.c
        of_it = and_(_bound(rule), table.request_id.startswith(replica, autoescape=True))
        # What was interrupted it never told of itself.
        unsettled = or_(table.outcome.in_((OPEN, INTERRUPTED)), table.closed_at >= since, table.seen_at >= since)
        tokens = func.sum(table.prompt_tokens + table.completion_tokens)
        admitted = self._sum(func.count(), and_(of_it, table.admitted_at >= since))
        return Amounts(
            admitted,
            self._sum(tokens, and_(of_it, unsettled)),
            0,
            self._sum(func.sum(table.cost), and_(of_it, unsettled)) if rule.period else 0,
        )

    def spent(self, rule: Rule, since: float) -> int:
        """Nano-dollars of all requests that a budget binds and that were admitted since; the beginning of a day (UTC)."""
        sums = ledger_project_days if rule.subject in ("organization", "project") else ledger_days
        return self._sum(func.sum(sums.c.cost), and_(_bound(rule, sums), sums.c.start >= since))

    def _sum(self, what: ColumnElement[Any], which: ColumnElement[bool]) -> int:
        return int(self._session.value(select(what).where(which)) or 0)


def _bound(rule: Rule, table: Table = ledger_requests) -> ColumnElement[bool]:
    """The requests that a rule counts."""
    found = table.c[f"{rule.subject}_id"] == rule.subject_id
    if rule.organization_id:
        found = and_(found, table.c.organization_id == rule.organization_id)
    if rule.model != ALL_MODELS:
        found = and_(found, table.c.model == rule.model)
    return found
