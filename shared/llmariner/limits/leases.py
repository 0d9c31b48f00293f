"""Leases of limits and budgets: what gateways take slices of, in one transaction for all rules of one question.

Three statements take care of any number of rules: one reads and locks their accounts, one asks the database's clock, which
all copies of this function share, and one writes them back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, Table, Update, and_, case, or_, select, update

from llmariner.gateway.control_plane.port import (
    NOTHING,
    Amounts,
    Grant,
    Hold,
    Key,
    LeaseAnswer,
    LeaseAsk,
    Newcomer,
    Rule,
)
from llmariner.limits.budgets import budget_from_row
from llmariner.limits.ledger_source import LedgerUsageSource
from llmariner.limits.quota_state import QuotaState
from llmariner.limits.rules import ALL_MODELS, limit_from_row
from llmariner.limits.tables import allowances, budgets, limits
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.events import outbox

__all__ = ["Leases", "default_limit_id"]

_ALERT_EVENT_TYPE = "ai.llmariner.budget.alert.v1"
_DEFAULT_PREFIX = "default_"
# A caller's first slice, as a part of the limit: enough that its next requests need not ask.
_FIRST_SLICE_DIVISOR = 64


def default_limit_id(key_id: str) -> str:
    """The id of the limit that a key has when none was set for it."""
    return _DEFAULT_PREFIX + key_id


class Leases:
    """Gives out slices. `defaults`: what limits a key that has no limit of its own, by measure."""

    def __init__(self, database: Database, defaults: Mapping[str, int]) -> None:
        self._database = database
        self.default_limits = dict(defaults)

    def lease(self, ask: LeaseAsk) -> LeaseAnswer:
        """See `gateway.control.Control.lease`."""
        return self._database.transact(lambda session: self._lease(session, ask))

    def _lease(self, session: WriteSession, ask: LeaseAsk) -> LeaseAnswer:
        callers = _callers(ask)
        known = self._load_rules(session, [each.key for each in callers])
        holds = {hold.rule: hold for hold in ask.holds}
        first: dict[str, Hold] = {}
        for caller, rules in zip(callers, known, strict=True):
            for rule in rules:
                if caller.least != NOTHING and rule.id not in holds and rule.model in (ALL_MODELS, caller.model):
                    first.setdefault(rule.id, _first_hold(rule, caller.least))
        grants = self._grant(session, ask, holds, first) if holds or first else []
        return LeaseAnswer(grants, known[0] if known else None, known[1:])

    def quota_states(self, rule_ids: Sequence[str]) -> dict[str, QuotaState]:
        """How limits and budgets stand, by id; of those that nobody has used there may be none."""
        found = {}
        # Brought up to date for whoever looks, but not stored: that is for those who lease.
        with self._database.read() as session:
            now = session.now()
            for row in session.rows(select(allowances).where(allowances.c.id.in_(rule_ids))):
                found[row.id] = QuotaState.load(self._stored_rule(row), row.state)
                found[row.id].advance(now, LedgerUsageSource(session))
        return found

    def _grant(
        self, session: WriteSession, ask: LeaseAsk, holds: Mapping[str, Hold], first: Mapping[str, Hold]
    ) -> list[Grant]:
        grants, states = [], {}
        rows, usage_source = _lock_states(session, [*holds, *first]), LedgerUsageSource(session)
        now = session.now()
        for row in rows:
            state = QuotaState.load(self._stored_rule(row), row.state)
            state.advance(now, usage_source)
            hold = holds.get(row.id)
            # A process that holds some already asks for more when it needs it.
            if hold is None and not state.has_lease(ask.replica):
                hold = first[row.id]
            if hold is not None:
                grants.append(state.grant_lease(hold, ask.replica, ask.at, now))
            if state.alert_due():
                state.mark_alerted()
                _publish_alert(session, state)
            states[row.id] = state.dump()
        if states:
            session.run(_write_back(states))
        return grants

    def _load_rules(self, session: WriteSession, keys: Sequence[Key]) -> list[list[Rule]]:
        """All that bind each of these callers; the default gets an state when it is first met."""
        if not keys:
            return []
        of_budgets = _by_subject(budget_from_row(row).rule for row in session.rows(_select_binding(budgets, keys)))
        of_limits = _by_subject(limit_from_row(row).rule for row in session.rows(_select_binding(limits, keys)))
        found, defaults = [], []
        for key in keys:
            rules = [rule for subject in _subjects(key) for rule in of_budgets.get(subject, ())]
            if not key.unlimited:
                limiting = [rule for subject in _subjects(key) for rule in of_limits.get(subject, ())]
                own = "user" if key.id == key.user_id else "key"
                if not any(rule.subject == own and rule.model == ALL_MODELS for rule in limiting):
                    limiting.append(self._default_rule(key.id))
                    defaults.append(default_limit_id(key.id))
                rules += limiting
            found.append(rules)
        _create_missing_states(session, defaults)
        return found

    def _default_rule(self, key_id: str) -> Rule:
        return Rule(default_limit_id(key_id), "", "key", key_id, ALL_MODELS, self.default_limits)

    def _stored_rule(self, row: Row[Any]) -> Rule:
        return (
            self._default_rule(row.id.removeprefix(_DEFAULT_PREFIX))
            if row.rule is None
            else Rule(**json.loads(row.rule))
        )


def _callers(ask: LeaseAsk) -> list[Newcomer]:
    if ask.newcomer is None:
        return []
    return [Newcomer(ask.newcomer, ask.model, ask.least), *ask.others]


def _create_missing_states(session: WriteSession, ids: Sequence[str]) -> None:
    """Of default limits; nearly always they are there."""
    if ids:
        there = {row.id for row in session.rows(select(allowances.c.id).where(allowances.c.id.in_(ids)))}
        missing = [{"id": id_, "rule": None, "state": "{}"} for id_ in sorted({*ids} - there)]
        session.insert_many_if_absent(allowances, missing)


_Subject = tuple[str, str, str]


def _subjects(key: Key) -> list[_Subject]:
    """Whose rules bind a caller: organization, kind and id."""
    ids = {"organization": key.organization_id, "project": key.project_id, "user": key.user_id, "key": key.id}
    return [(key.organization_id, kind, id_) for kind, id_ in ids.items()]


def _by_subject(rules: Iterable[Rule]) -> dict[_Subject, list[Rule]]:
    found: dict[_Subject, list[Rule]] = {}
    for rule in rules:
        found.setdefault((rule.organization_id, rule.subject, rule.subject_id), []).append(rule)
    return found


def _select_binding(table: Table, keys: Sequence[Key]) -> Select[Any]:
    """The rows of `limits` or `budgets` that bind any of these callers."""
    of: dict[tuple[str, str], set[str]] = {}
    for key in keys:
        for organization_id, kind, id_ in _subjects(key):
            of.setdefault((organization_id, kind), set()).add(id_)
    each = (
        and_(table.c.organization_id == organization_id, table.c.subject == kind, table.c.subject_id.in_(sorted(ids)))
        for (organization_id, kind), ids in of.items()
    )
    return select(table).where(or_(*each))


def _lock_states(session: WriteSession, rule_ids: Iterable[str]) -> Sequence[Row[Any]]:
    """The accounts, locked to the end of the transaction; in one order for all, so that nobody waits in a ring."""
    query = select(allowances).where(allowances.c.id.in_(list(rule_ids))).order_by(allowances.c.id)
    return session.rows(query.with_for_update())


def _write_back(states: Mapping[str, str]) -> Update:
    state = case(dict(states), value=allowances.c.id, else_=allowances.c.state)
    return update(allowances).where(allowances.c.id.in_(list(states))).values(state=state)


def _first_hold(rule: Rule, least: Amounts) -> Hold:
    """For a caller that was not met before: what its first request needs, and a slice if there is plenty."""
    part = {name: most // _FIRST_SLICE_DIVISOR for name, most in rule.most.items()}
    requests = [part[name] for name in ("requests_per_minute", "requests_per_day") if name in part]
    tokens = [part[name] for name in ("tokens_per_minute", "tokens_per_day") if name in part]
    wants = Amounts(
        max(least.requests, min(requests, default=0)),
        max(least.tokens, min(tokens, default=0)),
        max(least.places, part.get("concurrent_requests", 0)),
        (rule.amount or 0) // _FIRST_SLICE_DIVISOR,
    )
    return Hold(rule.id, NOTHING, NOTHING, wants, least._replace(money=0))


def _publish_alert(session: WriteSession, state: QuotaState) -> None:
    """Tell of a budget that is spent to the part its owner wanted to hear of; once in a period."""
    rule = state.rule
    channel = session.value(select(budgets.c.channel).where(budgets.c.id == rule.id))
    outbox.add(
        session,
        _ALERT_EVENT_TYPE,
        f"budgets/{rule.id}",
        {
            "id": rule.id,
            "organization_id": rule.organization_id,
            "project_id": rule.subject_id if rule.subject == "project" else None,
            "subject": rule.subject,
            "subject_id": rule.subject_id,
            "period": rule.period,
            "amount_nano_usd": rule.amount,
            "spent_nano_usd": state.spent,
            "notification_channel": None if channel is None else json.loads(channel),
        },
    )
