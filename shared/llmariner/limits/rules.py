"""Limits on requests, tokens and slots of a key, a user, a project or an organization, for one model or for all."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Table, and_, func, or_, select, update

from llmariner.audit import log
from llmariner.errors import InvalidRequest, NotFound
from llmariner.gateway.control_plane.port import Rule
from llmariner.gateway.control_plane.serialization import rule_to_wire
from llmariner.identifiers import new_id
from llmariner.limits.revisions import record_rule_changes
from llmariner.limits.tables import allowances, limits
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.tenancy.principal import Caller

__all__ = [
    "ALL_MODELS",
    "MEASURES",
    "SUBJECTS",
    "Limit",
    "Limits",
    "Subject",
    "limit_from_row",
    "new_rule_row",
    "record_change",
    "store_rule",
    "subject_filter",
]

ALL_MODELS = "*"
SUBJECTS = ("organization", "project", "user", "key")
MEASURES = (
    "requests_per_minute",
    "requests_per_day",
    "tokens_per_minute",
    "tokens_per_day",
    "concurrent_requests",
    "queue_share",
)
_MAX_VALUE = 2**62
# A gateway instance loads all limits of a subject when it first serves one of its keys.
_MAX_PER_SUBJECT = 200


@dataclass(frozen=True)
class Subject:
    """The subject of a limit or budget, inside one organization; `kind` is one of SUBJECTS."""

    organization_id: str
    kind: str
    id: str

    def __post_init__(self) -> None:
        if self.kind not in SUBJECTS:
            raise InvalidRequest(f"'subject' must be one of {', '.join(SUBJECTS)}, not '{self.kind}'.", param="subject")


@dataclass(frozen=True)
class Limit:
    """A stored limit. `thresholds`: the limited ones of MEASURES."""

    id: str
    subject: Subject
    model: str
    thresholds: Mapping[str, int]
    created_at: int
    updated_at: int

    @property
    def rule(self) -> Rule:
        """The rule that gateway instances lease."""
        return Rule(
            self.id, self.subject.organization_id, self.subject.kind, self.subject.id, self.model, self.thresholds
        )


class Limits:
    """The limits of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, actor: Caller | None, subject: Subject, model: str, thresholds: Mapping[str, int | None]) -> Limit:
        """Set thresholds of a subject's limit for a model; unnamed ones stay, None removes one.

        Raises InvalidRequest for a value out of range, and if the subject has limits for too many models.
        """
        values = _validate(thresholds)
        with self._database.write() as session:
            # This locks the revision's row, so that transactions which change limits run one after another.
            record_rule_changes(session, next_revision(session, "limits"), [(subject.kind, subject.id)])
            row = session.first(select(limits).where(_for_subject(subject), limits.c.model == model))
            now = int(time.time())
            if row is None:
                _check_count(session, subject)
                limit_id = new_id("limit")
                session.add(limits, **new_rule_row(limit_id, subject, now), model=model, **values)
            else:
                limit_id = row.id
                session.run(update(limits).where(limits.c.id == limit_id).values(updated_at=now, **values))
            limit = limit_from_row(session.first(select(limits).where(limits.c.id == limit_id)))
            store_rule(session, limit.rule)
            record_change(
                session, actor, "rate_limit.updated", subject, {"id": limit_id, "model": model, **limit.thresholds}
            )
        return limit

    def get(self, organization_id: str, limit_id: str) -> Limit:
        """One of an organization's limits. Raises NotFound."""
        with self._database.read() as session:
            return _get(session, organization_id, limit_id)

    def all(self, organization_id: str) -> list[Limit]:
        """All limits of an organization, oldest first."""
        query = select(limits).where(limits.c.organization_id == organization_id)
        with self._database.read() as session:
            rows = session.rows(query.order_by(limits.c.created_at, limits.c.id))
        return [limit_from_row(row) for row in rows]

    def for_subject(self, subject: Subject) -> list[Limit]:
        """The limits of one subject, by model."""
        with self._database.read() as session:
            rows = session.rows(select(limits).where(_for_subject(subject)).order_by(limits.c.model))
        return [limit_from_row(row) for row in rows]

    def remove(self, actor: Caller | None, organization_id: str, limit_id: str) -> None:
        """Delete a limit. Raises NotFound."""
        with self._database.write() as session:
            revision = next_revision(session, "limits")
            limit = _get(session, organization_id, limit_id)
            record_rule_changes(session, revision, [(limit.subject.kind, limit.subject.id)])
            session.run(limits.delete().where(limits.c.id == limit_id))
            session.run(allowances.delete().where(allowances.c.id == limit_id))
            record_change(session, actor, "rate_limit.deleted", limit.subject, {"id": limit_id, "model": limit.model})


def limit_from_row(row: Row[Any] | None) -> Limit:
    """The limit that a row of `limits` holds."""
    assert row is not None
    thresholds = {name: getattr(row, name) for name in MEASURES if getattr(row, name) is not None}
    subject = Subject(row.organization_id, row.subject, row.subject_id)
    return Limit(row.id, subject, row.model, thresholds, row.created_at, row.updated_at)


def subject_filter(table: Table, organization_id: str, subjects: Mapping[str, str]) -> ColumnElement[bool]:
    """The condition on rows of `limits` or `budgets` that bind any of these subjects (kind → id)."""
    conditions = (and_(table.c.subject == kind, table.c.subject_id == id_) for kind, id_ in subjects.items())
    return and_(table.c.organization_id == organization_id, or_(*conditions))


def store_rule(session: WriteSession, rule: Rule) -> None:
    """Store a rule for leasing; its recorded usage stays."""
    text = json.dumps(rule_to_wire(rule), separators=(",", ":"))
    if not session.insert_if_absent(allowances, [{"id": rule.id, "rule": text, "state": "{}"}]):
        session.run(update(allowances).where(allowances.c.id == rule.id).values(rule=text))


def record_change(
    session: WriteSession, actor: Caller | None, type_: str, subject: Subject, payload: dict[str, Any]
) -> None:
    """Add an audit entry for a change of a limit or budget."""
    log.append_entry(
        session,
        actor,
        type_,
        {**payload, "subject": {"type": subject.kind, "id": subject.id}},
        organization_id=subject.organization_id,
        project_id=subject.id if subject.kind == "project" else None,
    )


def new_rule_row(id_: str, subject: Subject, now: int) -> dict[str, Any]:
    """The columns that a new row of `limits` and one of `budgets` share."""
    return {
        "id": id_,
        "organization_id": subject.organization_id,
        "subject": subject.kind,
        "subject_id": subject.id,
        "created_at": now,
        "updated_at": now,
    }


def _for_subject(subject: Subject) -> ColumnElement[bool]:
    return subject_filter(limits, subject.organization_id, {subject.kind: subject.id})


def _get(session: ReadSession, organization_id: str, limit_id: str) -> Limit:
    row = session.first(select(limits).where(limits.c.id == limit_id, limits.c.organization_id == organization_id))
    if row is None:
        raise NotFound(f"No limit with id '{limit_id}'. List yours with GET /v1/limits.", param="id")
    return limit_from_row(row)


def _check_count(session: ReadSession, subject: Subject) -> None:
    count = int(session.value(select(func.count()).select_from(limits).where(_for_subject(subject))))
    if count >= _MAX_PER_SUBJECT:
        raise InvalidRequest(
            f"There are limits of {count} models of this {subject.kind}; delete some, or set one for all models ('*').",
            param="model",
        )


def _validate(thresholds: Mapping[str, int | None]) -> dict[str, int | None]:
    for name, value in thresholds.items():
        if name not in MEASURES:
            raise InvalidRequest(f"'{name}' is none of {', '.join(MEASURES)}.", param=name)
        if value is not None and not 0 <= value <= _MAX_VALUE:
            raise InvalidRequest(f"'{name}' must be a whole number from 0 on, or null for none.", param=name)
    return dict(thresholds)
