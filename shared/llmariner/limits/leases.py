"""Leases: grants gateway instances slices of limits and budgets, in one transaction for all rules of a request.

Three statements serve any number of rules: one reads and locks the quota states, one reads the database's clock, which all
instances of this function share, and one writes the states back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, Table, Update, and_, case, or_, select, update

from llmariner.gateway.control_plane.port import (
    NO_AMOUNTS,
    Amounts,
    Key,
    LeaseGrant,
    LeaseReport,
    LeaseRequest,
    LeaseResponse,
    Rule,
    RulesQuery,
)
from llmariner.gateway.control_plane.serialization import rule_from_wire
from llmariner.limits.budgets import budget_from_row
from llmariner.limits.ledger_source import LedgerUsageSource
from llmariner.limits.quota_state import QuotaState
from llmariner.limits.rules import ALL_MODELS, limit_from_row
from llmariner.limits.tables import allowances, budgets, limits
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.events import outbox

__all__ = ["Leases", "default_limit_id", "lock_states", "publish_alert", "select_binding", "write_states"]

_ALERT_EVENT_TYPE = "ai.llmariner.budget.alert.v1"
_DEFAULT_PREFIX = "default_"
# A caller's first slice is this part of the limit, so that its next requests need no lease request.
_FIRST_SLICE_DIVISOR = 64


def default_limit_id(key_id: str) -> str:
    """The id of the default limit of a key without a limit of its own."""
    return _DEFAULT_PREFIX + key_id


class Leases:
    """Grants slices. `default_limits`: the limit of a key without one of its own, by measure."""

    def __init__(self, database: Database, default_limits: Mapping[str, int]) -> None:
        self._database = database
        self.default_limits = dict(default_limits)

    def lease(self, request: LeaseRequest) -> LeaseResponse:
        """See `gateway.control_plane.port.ControlPlane.lease`."""
        return self._database.transact(lambda session: self._lease(session, request))

    def _lease(self, session: WriteSession, request: LeaseRequest) -> LeaseResponse:
        callers = _callers(request)
        rules_by_caller = self._load_rules(session, [each.key for each in callers])
        reports = {report.rule_id: report for report in request.reports}
        first_reports: dict[str, LeaseReport] = {}
        for caller, rules in zip(callers, rules_by_caller, strict=True):
            for rule in rules:
                if caller.minimum != NO_AMOUNTS and rule.id not in reports and rule.model in (ALL_MODELS, caller.model):
                    first_reports.setdefault(rule.id, _first_report(rule, caller.minimum))
        grants = self._grant(session, request, reports, first_reports) if reports or first_reports else []
        return LeaseResponse(grants, rules_by_caller[0] if rules_by_caller else None, rules_by_caller[1:])

    def quota_states(self, rule_ids: Sequence[str]) -> dict[str, QuotaState]:
        """The current states of limits and budgets, by id; those that were never used may be missing."""
        found = {}
        # The states are advanced for this reader only; `lease` alone writes them.
        with self._database.read() as session:
            now = session.now()
            for row in session.rows(select(allowances).where(allowances.c.id.in_(rule_ids))):
                found[row.id] = QuotaState.load(self._stored_rule(row), row.state)
                found[row.id].advance(now, LedgerUsageSource(session))
        return found

    def _grant(
        self,
        session: WriteSession,
        request: LeaseRequest,
        reports: Mapping[str, LeaseReport],
        first_reports: Mapping[str, LeaseReport],
    ) -> list[LeaseGrant]:
        grants, states = [], {}
        rows, usage_source = lock_states(session, [*reports, *first_reports]), LedgerUsageSource(session)
        now = session.now()
        for row in rows:
            state = QuotaState.load(self._stored_rule(row), row.state)
            state.advance(now, usage_source)
            report = reports.get(row.id)
            # An instance that has a lease requests more when it needs more.
            if report is None and not state.has_lease(request.instance):
                report = first_reports[row.id]
            if report is not None:
                grants.append(state.grant_lease(report, request.instance, request.sent_at, now))
            if state.alert_due():
                state.mark_alerted()
                publish_alert(session, state)
            states[row.id] = state.dump()
        if states:
            session.run(write_states(states))
        return grants

    def _load_rules(self, session: WriteSession, keys: Sequence[Key]) -> list[list[Rule]]:
        """The rules that bind each of these callers; creates the state of a default limit on its first use."""
        if not keys:
            return []
        of_budgets = _by_subject(budget_from_row(row).rule for row in session.rows(select_binding(budgets, keys)))
        of_limits = _by_subject(limit_from_row(row).rule for row in session.rows(select_binding(limits, keys)))
        rules_by_key, default_ids = [], []
        for key in keys:
            rules = [rule for subject in _subjects(key) for rule in of_budgets.get(subject, ())]
            if not key.unlimited:
                key_limits = [rule for subject in _subjects(key) for rule in of_limits.get(subject, ())]
                own_kind = "user" if key.id == key.user_id else "key"
                if not any(rule.subject == own_kind and rule.model == ALL_MODELS for rule in key_limits):
                    key_limits.append(self._default_rule(key.id))
                    default_ids.append(default_limit_id(key.id))
                rules += key_limits
            rules_by_key.append(rules)
        _create_missing_states(session, default_ids)
        return rules_by_key

    def _default_rule(self, key_id: str) -> Rule:
        return Rule(default_limit_id(key_id), "", "key", key_id, ALL_MODELS, self.default_limits)

    def _stored_rule(self, row: Row[Any]) -> Rule:
        if row.rule is None:
            return self._default_rule(row.id.removeprefix(_DEFAULT_PREFIX))
        return rule_from_wire(json.loads(row.rule))


def _callers(request: LeaseRequest) -> list[RulesQuery]:
    if request.key is None:
        return []
    return [RulesQuery(request.key, request.model, request.minimum), *request.other_queries]


def _create_missing_states(session: WriteSession, ids: Sequence[str]) -> None:
    """Create the missing states of default limits; usually none is missing."""
    if ids:
        existing = {row.id for row in session.rows(select(allowances.c.id).where(allowances.c.id.in_(ids)))}
        missing = [{"id": id_, "rule": None, "state": "{}"} for id_ in sorted({*ids} - existing)]
        session.insert_many_if_absent(allowances, missing)


_Subject = tuple[str, str, str]


def _subjects(key: Key) -> list[_Subject]:
    """The subjects whose rules bind a caller: (organization id, kind, id)."""
    ids = {"organization": key.organization_id, "project": key.project_id, "user": key.user_id, "key": key.id}
    return [(key.organization_id, kind, id_) for kind, id_ in ids.items()]


def _by_subject(rules: Iterable[Rule]) -> dict[_Subject, list[Rule]]:
    found: dict[_Subject, list[Rule]] = {}
    for rule in rules:
        found.setdefault((rule.organization_id, rule.subject, rule.subject_id), []).append(rule)
    return found


def select_binding(table: Table, keys: Sequence[Key]) -> Select[Any]:
    """Select the rows of `limits` or `budgets` that bind any of these callers."""
    ids_by_kind: dict[tuple[str, str], set[str]] = {}
    for key in keys:
        for organization_id, kind, id_ in _subjects(key):
            ids_by_kind.setdefault((organization_id, kind), set()).add(id_)
    conditions = (
        and_(table.c.organization_id == organization_id, table.c.subject == kind, table.c.subject_id.in_(sorted(ids)))
        for (organization_id, kind), ids in ids_by_kind.items()
    )
    return select(table).where(or_(*conditions))


def lock_states(session: WriteSession, rule_ids: Iterable[str]) -> Sequence[Row[Any]]:
    """The states, locked until the transaction ends; always in the order of ids, which prevents deadlocks."""
    query = select(allowances).where(allowances.c.id.in_(list(rule_ids))).order_by(allowances.c.id)
    return session.rows(query.with_for_update())


def write_states(states: Mapping[str, str]) -> Update:
    """The statement that stores states, by id."""
    state = case(dict(states), value=allowances.c.id, else_=allowances.c.state)
    return update(allowances).where(allowances.c.id.in_(list(states))).values(state=state)


def _first_report(rule: Rule, minimum: Amounts) -> LeaseReport:
    """The report for a rule of a new caller: requests what its first request needs, and a slice if there is enough."""
    slices = {name: threshold // _FIRST_SLICE_DIVISOR for name, threshold in rule.thresholds.items()}
    requests = [slices[name] for name in ("requests_per_minute", "requests_per_day") if name in slices]
    tokens = [slices[name] for name in ("tokens_per_minute", "tokens_per_day") if name in slices]
    requested = Amounts(
        max(minimum.requests, min(requests, default=0)),
        max(minimum.tokens, min(tokens, default=0)),
        max(minimum.slots, slices.get("concurrent_requests", 0)),
        (rule.amount or 0) // _FIRST_SLICE_DIVISOR,
    )
    return LeaseReport(rule.id, NO_AMOUNTS, NO_AMOUNTS, requested, minimum._replace(money=0))


def publish_alert(session: WriteSession, state: QuotaState) -> None:
    """Publish the event that a budget's alert threshold is reached."""
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
