"""Usage of a rule according to the ledger, for expired gateway instances and for new periods."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Table, and_, case, func, or_, select

from llmariner.gateway.control_plane.port import Amounts, Rule
from llmariner.limits.rules import ALL_MODELS
from llmariner.platform.database import ReadSession
from llmariner.showback.tables import compute_charges
from llmariner.usage.aggregation import INTERRUPTED, OPEN
from llmariner.usage.tables import instance_of, ledger_days, ledger_project_days, ledger_requests

__all__ = ["LedgerUsageSource"]

# An open request sends a checkpoint every 15 s; the sweep interrupts a request without one for a minute.
_HEARTBEAT_SECONDS = 120.0


class LedgerUsageSource:
    """The ledger as a `quota_state.UsageSource`."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session

    def unreported_usage(self, rule: Rule, instance: str, since: float) -> Amounts:
        """Requests admitted since `since`, and tokens and money of requests that were open then.

        Request ids begin with the id of their gateway instance. Requests that ended in the instance's last half second are
        not in the ledger. Reads one index range: the instance's requests seen from shortly before `since`.
        """
        table = ledger_requests.c
        # The instance itself never reported an interrupted request.
        unreported = or_(table.outcome.in_((OPEN, INTERRUPTED)), table.seen_at >= since)
        tokens = table.prompt_tokens + table.completion_tokens
        sums = select(
            _sum_where(table.admitted_at >= since, 1),
            _sum_where(unreported, tokens),
            _sum_where(unreported, table.cost),
        )
        of_instance = and_(instance_of(table.request_id) == instance, table.seen_at >= since - _HEARTBEAT_SECONDS)
        row = self._session.rows(sums.where(of_instance, _counted_by(rule)))[0]
        requests, used, cost = (int(value or 0) for value in row)
        return Amounts(requests, used, 0, cost if rule.period else 0)

    def spent_since(self, rule: Rule, since: float) -> int:
        """Nano-dollars of what a budget counts since `since`, the start of a day (UTC): requests and compute."""
        sums = ledger_project_days if rule.subject in ("organization", "project") else ledger_days
        query = select(func.sum(sums.c.cost)).where(_counted_by(rule, sums), sums.c.start >= since)
        return int(self._session.value(query) or 0) + self._compute_since(rule, since)

    def _compute_since(self, rule: Rule, since: float) -> int:
        """Nano-dollars that the budget was charged for GPUs, cores and memory; those of one model or key count none."""
        if rule.model != ALL_MODELS or rule.subject == "key":
            return 0
        charges = compute_charges.c
        query = select(func.sum(charges.cost)).where(
            charges[f"{rule.subject}_id"] == rule.subject_id, charges.start >= since
        )
        if rule.organization_id:
            query = query.where(charges.organization_id == rule.organization_id)
        return int(self._session.value(query) or 0)


def _sum_where(condition: ColumnElement[bool], value: Any) -> ColumnElement[Any]:
    return func.sum(case((condition, value), else_=0))


def _counted_by(rule: Rule, table: Table = ledger_requests) -> ColumnElement[bool]:
    """The condition on ledger rows that a rule counts."""
    condition = table.c[f"{rule.subject}_id"] == rule.subject_id
    if rule.organization_id:
        condition = and_(condition, table.c.organization_id == rule.organization_id)
    if rule.model != ALL_MODELS:
        condition = and_(condition, table.c.model == rule.model)
    return condition
