"""What the ledger says of a rule: the truth about processes that fell silent and periods that began."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Table, and_, case, func, or_, select

from llmariner.gateway.control_plane.port import Amounts, Rule
from llmariner.limits.rules import ALL_MODELS
from llmariner.platform.database import ReadSession
from llmariner.usage.aggregation import INTERRUPTED, OPEN
from llmariner.usage.tables import instance_of, ledger_days, ledger_project_days, ledger_requests

__all__ = ["LedgerUsageSource"]

# A request under way gives a sign of life every 15 s, and without one for a minute the sweep interrupts it.
_HEARTBEAT_SECONDS = 120.0


class LedgerUsageSource:
    """See `quota_state.UsageSource`."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session

    def unreported_usage(self, rule: Rule, instance: str, since: float) -> Amounts:
        """Requests admitted since, and tokens and money of what was still open then; request ids begin with the process.

        What ended in the process's last half second never reached the ledger. Reads one range of an index: what the
        process was seen to do from shortly before `since` on.
        """
        table = ledger_requests.c
        # What was interrupted it never told of itself.
        unsettled = or_(table.outcome.in_((OPEN, INTERRUPTED)), table.seen_at >= since)
        tokens = table.prompt_tokens + table.completion_tokens
        sums = select(
            _sum_where(table.admitted_at >= since, 1),
            _sum_where(unsettled, tokens),
            _sum_where(unsettled, table.cost),
        )
        of_it = and_(instance_of(table.request_id) == instance, table.seen_at >= since - _HEARTBEAT_SECONDS)
        row = self._session.rows(sums.where(of_it, _counted_by(rule)))[0]
        requests, used, cost = (int(value or 0) for value in row)
        return Amounts(requests, used, 0, cost if rule.period else 0)

    def spent_since(self, rule: Rule, since: float) -> int:
        """Nano-dollars of all requests that a budget binds and that were admitted since; the beginning of a day (UTC)."""
        sums = ledger_project_days if rule.subject in ("organization", "project") else ledger_days
        query = select(func.sum(sums.c.cost)).where(_counted_by(rule, sums), sums.c.start >= since)
        return int(self._session.value(query) or 0)


def _sum_where(which: ColumnElement[bool], what: Any) -> ColumnElement[Any]:
    return func.sum(case((which, what), else_=0))


def _counted_by(rule: Rule, table: Table = ledger_requests) -> ColumnElement[bool]:
    """The requests that a rule counts."""
    found = table.c[f"{rule.subject}_id"] == rule.subject_id
    if rule.organization_id:
        found = and_(found, table.c.organization_id == rule.organization_id)
    if rule.model != ALL_MODELS:
        found = and_(found, table.c.model == rule.model)
    return found
