"""Budgets: the money that a key, a user, a project or an organization may spend per day, per month or in total."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, select, update

from llmariner.errors import InvalidRequest, NotFound
from llmariner.gateway.control_plane.port import Rule
from llmariner.identifiers import new_id
from llmariner.limits.revisions import record_rule_changes
from llmariner.limits.rules import ALL_MODELS, Subject, new_rule_row, record_change, store_rule, subject_filter
from llmariner.limits.tables import allowances, budgets
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.tenancy.principal import Caller

__all__ = ["PERIODS", "Budget", "Budgets", "NewBudget", "budget_from_row"]

PERIODS = ("day", "month", "total")
_MAX_AMOUNT = 2**62
# Each request is counted by every budget and alert of its subject.
_MAX_ALERTS = 20


@dataclass(frozen=True)
class NewBudget:
    """The settable fields of a budget.

    `amount` in nano-dollars; `alert_ratio`: the spent part of it that triggers an alert, None: no alert; `hard`:
    requests are rejected once it is spent.
    """

    amount: int
    alert_ratio: float | None = 0.8
    hard: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= _MAX_AMOUNT:
            raise InvalidRequest("'amount' must be an amount of US dollars from 0 on.", param="amount")
        if self.alert_ratio is not None and not 0 < self.alert_ratio <= 1:
            raise InvalidRequest("'alert_ratio' must be more than 0 and at most 1.", param="alert_ratio")


@dataclass(frozen=True)
class Budget:
    """A stored budget. Periods are days and months of UTC. `channel`: recipients of a spend alert, else None."""

    id: str
    subject: Subject
    period: str
    amount: int
    alert_ratio: float | None
    hard: bool
    created_at: int
    updated_at: int
    channel: Mapping[str, Any] | None = None

    @property
    def rule(self) -> Rule:
        """The rule that gateway instances lease. A budget that is not hard is counted, but rejects nothing."""
        return Rule(
            id=self.id,
            organization_id=self.subject.organization_id,
            subject=self.subject.kind,
            subject_id=self.subject.id,
            model=ALL_MODELS,
            period=self.period,
            amount=self.amount,
            hard=self.hard,
            alert_ratio=self.alert_ratio,
        )


class Budgets:
    """The budgets of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, actor: Caller | None, subject: Subject, period: str, new: NewBudget) -> Budget:
        """Create or replace a subject's budget of a period. Money already spent in the current period counts."""
        with self._database.write() as session:
            _record_revision(session, subject)  # locks the revision's row first, as `Limits.put` does
            same = select(budgets.c.id).where(
                _for_subject(subject), budgets.c.period == period, budgets.c.channel.is_(None)
            )
            return _upsert(session, actor, session.value(same), subject, period, new, None)

    def add_alert(
        self, actor: Caller | None, subject: Subject, period: str, amount: int, channel: Mapping[str, Any]
    ) -> Budget:
        """Add a spend alert beside the subject's budget and other alerts; an alert rejects no request."""
        with self._database.write() as session:
            _record_revision(session, subject)
            existing = session.rows(select(budgets.c.id).where(_for_subject(subject), budgets.c.channel.is_not(None)))
            if len(existing) >= _MAX_ALERTS:
                raise InvalidRequest(f"There are {_MAX_ALERTS} alerts of this {subject.kind}; delete or change one.")
            return _upsert(session, actor, None, subject, period, _alert_terms(amount), channel)

    def update(self, actor: Caller | None, budget: Budget, new: NewBudget) -> Budget:
        """Change a budget, or the amount of an alert. Raises NotFound if it was deleted."""
        if budget.channel is not None and new != _alert_terms(new.amount):
            raise InvalidRequest(
                "A spend alert tells of its whole amount and refuses nothing: change its 'amount' only, or set a budget.",
                param="hard" if new.hard else "alert_ratio",
            )
        return self._change(actor, budget, new, budget.channel)

    def update_alert(self, actor: Caller | None, alert: Budget, amount: int, channel: Mapping[str, Any]) -> Budget:
        """Change an alert. Raises NotFound if it was deleted."""
        return self._change(actor, alert, _alert_terms(amount), channel)

    def _change(
        self, actor: Caller | None, budget: Budget, new: NewBudget, channel: Mapping[str, Any] | None
    ) -> Budget:
        with self._database.write() as session:
            _record_revision(session, budget.subject)
            _get(session, budget.subject.organization_id, budget.id)
            return _upsert(session, actor, budget.id, budget.subject, budget.period, new, channel)

    def get(self, organization_id: str, budget_id: str) -> Budget:
        """One of an organization's budgets. Raises NotFound."""
        with self._database.read() as session:
            return _get(session, organization_id, budget_id)

    def all(self, organization_id: str) -> list[Budget]:
        """All budgets of an organization, oldest first."""
        query = select(budgets).where(budgets.c.organization_id == organization_id)
        with self._database.read() as session:
            rows = session.rows(query.order_by(budgets.c.created_at, budgets.c.id))
        return [budget_from_row(row) for row in rows]

    def for_subject(self, subject: Subject) -> list[Budget]:
        """The budgets and alerts of one subject, by period and age."""
        order = (budgets.c.period, budgets.c.created_at, budgets.c.id)
        with self._database.read() as session:
            rows = session.rows(select(budgets).where(_for_subject(subject)).order_by(*order))
        return [budget_from_row(row) for row in rows]

    def remove(self, actor: Caller | None, organization_id: str, budget_id: str) -> None:
        """Delete a budget. Raises NotFound."""
        with self._database.write() as session:
            revision = next_revision(session, "limits")
            budget = _get(session, organization_id, budget_id)
            record_rule_changes(session, revision, [(budget.subject.kind, budget.subject.id)])
            session.run(budgets.delete().where(budgets.c.id == budget_id))
            session.run(allowances.delete().where(allowances.c.id == budget_id))
            record_change(session, actor, "budget.deleted", budget.subject, {"id": budget_id, "period": budget.period})


def budget_from_row(row: Row[Any] | None) -> Budget:
    """The budget that a row of `budgets` holds."""
    assert row is not None
    return Budget(
        id=row.id,
        subject=Subject(row.organization_id, row.subject, row.subject_id),
        period=row.period,
        amount=row.amount,
        alert_ratio=row.alert_ratio,
        hard=row.hard,
        created_at=row.created_at,
        updated_at=row.updated_at,
        channel=None if row.channel is None else json.loads(row.channel),
    )


def _record_revision(session: WriteSession, subject: Subject) -> None:
    record_rule_changes(session, next_revision(session, "limits"), [(subject.kind, subject.id)])


def _alert_terms(amount: int) -> NewBudget:
    return NewBudget(amount, alert_ratio=1.0, hard=False)


def _upsert(
    session: WriteSession,
    actor: Caller | None,
    budget_id: str | None,
    subject: Subject,
    period: str,
    new: NewBudget,
    channel: Mapping[str, Any] | None,
) -> Budget:
    """Insert a budget, or update the one with `budget_id`. The caller holds the lock on the revision's row."""
    if period not in PERIODS:
        raise InvalidRequest(f"'period' must be one of {', '.join(PERIODS)}, not '{period}'.", param="period")
    values: dict[str, Any] = {"amount": new.amount, "alert_ratio": new.alert_ratio, "hard": new.hard}
    columns = values | {"channel": None if channel is None else json.dumps(dict(channel))}
    now = int(time.time())
    if budget_id is None:
        budget_id = new_id("budget" if channel is None else "alert")
        session.add(budgets, **new_rule_row(budget_id, subject, now), period=period, **columns)
    else:
        session.run(update(budgets).where(budgets.c.id == budget_id).values(updated_at=now, **columns))
    budget = budget_from_row(session.first(select(budgets).where(budgets.c.id == budget_id)))
    store_rule(session, budget.rule)
    payload = values if channel is None else values | {"notification_channel": dict(channel)}
    record_change(session, actor, "budget.updated", subject, {"id": budget_id, "period": period, **payload})
    return budget


def _for_subject(subject: Subject) -> ColumnElement[bool]:
    return subject_filter(budgets, subject.organization_id, {subject.kind: subject.id})


def _get(session: ReadSession, organization_id: str, budget_id: str) -> Budget:
    row = session.first(select(budgets).where(budgets.c.id == budget_id, budgets.c.organization_id == organization_id))
    if row is None:
        raise NotFound(f"No budget with id '{budget_id}'. List yours with GET /v1/budgets.", param="id")
    return budget_from_row(row)
