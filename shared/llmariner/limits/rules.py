"""Limits: requests, tokens and places of a key, a user, a project or an organisation, for one model or for all."""

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
# Each request for tokens that a subject binds comes with all its limits, when its key is first met.
_MAX_PER_SUBJECT = 200


@dataclass(frozen=True)
class Subject:
    """Whom a limit or budget binds, inside one organisation; `kind` is one of SUBJECTS."""

    organization_id: str
    kind: str
    id: str

    def __post_init__(self) -> None:
        if self.kind not in SUBJECTS:
            raise InvalidRequest(f"'subject' must be one of {', '.join(SUBJECTS)}, not '{self.kind}'.", param="subject")


@dataclass(frozen=True)
class Limit:
    """A limit as it is stored. `thresholds` holds those of MEASURES that are limited."""

    id: str
    subject: Subject
    model: str
    thresholds: Mapping[str, int]
    created_at: int
    updated_at: int

    @property
    def rule(self) -> Rule:
        """As gateways see it."""
        return Rule(
            self.id, self.subject.organization_id, self.subject.kind, self.subject.id, self.model, self.thresholds
        )


class Limits:
    """The limits of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, actor: Caller | None, subject: Subject, model: str, thresholds: Mapping[str, int | None]) -> Limit:
        """Set measures of a subject's limit for a model; those not named stay, None takes one away.

        InvalidRequest for a number out of range, and for one model more than a subject may have limits of.
        """
        values = _validate(thresholds)
        with self._database.write() as session:
            # Whoever holds the revision's row is the only one who makes limits.
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
            made = limit_from_row(session.first(select(limits).where(limits.c.id == limit_id)))
            store_rule(session, made.rule)
            record_change(
                session, actor, "rate_limit.updated", subject, {"id": limit_id, "model": model, **made.thresholds}
            )
        return made

    def get(self, organization_id: str, limit_id: str) -> Limit:
        """One of an organisation's limits. NotFound otherwise."""
        with self._database.read() as session:
            return _get(session, organization_id, limit_id)

    def all(self, organization_id: str) -> list[Limit]:
        """All limits of an organisation, oldest first."""
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
        """Take a limit away."""
        with self._database.write() as session:
            revision = next_revision(session, "limits")
            limit = _get(session, organization_id, limit_id)
            record_rule_changes(session, revision, [(limit.subject.kind, limit.subject.id)])
            session.run(limits.delete().where(limits.c.id == limit_id))
            session.run(allowances.delete().where(allowances.c.id == limit_id))
            record_change(session, actor, "rate_limit.deleted", limit.subject, {"id": limit_id, "model": limit.model})


def limit_from_row(row: Row[Any] | None) -> Limit:
    """From a row of the table."""
    assert row is not None
    thresholds = {name: getattr(row, name) for name in MEASURES if getattr(row, name) is not None}
    subject = Subject(row.organization_id, row.subject, row.subject_id)
    return Limit(row.id, subject, row.model, thresholds, row.created_at, row.updated_at)


def subject_filter(table: Table, organization_id: str, subjects: Mapping[str, str]) -> ColumnElement[bool]:
    """Which rows of `limits` or `budgets` bind somebody: kinds of subject → ids."""
    each = (and_(table.c.subject == kind, table.c.subject_id == id_) for kind, id_ in subjects.items())
    return and_(table.c.organization_id == organization_id, or_(*each))


def store_rule(session: WriteSession, rule: Rule) -> None:
    """Make a rule known to those who lease it; what was used of it stays."""
    text = json.dumps(rule._asdict(), separators=(",", ":"))
    if not session.insert_if_absent(allowances, [{"id": rule.id, "rule": text, "state": "{}"}]):
        session.run(update(allowances).where(allowances.c.id == rule.id).values(rule=text))


def record_change(
    session: WriteSession, actor: Caller | None, type_: str, subject: Subject, payload: dict[str, Any]
) -> None:
    """Write a change of a limit or budget into the audit log."""
    log.append_entry(
        session,
        actor,
        type_,
        {**payload, "subject": {"type": subject.kind, "id": subject.id}},
        organization_id=subject.organization_id,
        project_id=subject.id if subject.kind == "project" else None,
    )


def new_rule_row(id_: str, subject: Subject, now: int) -> dict[str, Any]:
    """What a new row of `limits` and one of `budgets` have in common."""
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
    known = int(session.value(select(func.count()).select_from(limits).where(_for_subject(subject))))
    if known >= _MAX_PER_SUBJECT:
        raise InvalidRequest(
            f"There are limits of {known} models of this {subject.kind}; delete some, or set one for all models ('*').",
            param="model",
        )


def _validate(thresholds: Mapping[str, int | None]) -> dict[str, int | None]:
    for name, value in thresholds.items():
        if name not in MEASURES:
            raise InvalidRequest(f"'{name}' is none of {', '.join(MEASURES)}.", param=name)
        if value is not None and not 0 <= value <= _MAX_VALUE:
            raise InvalidRequest(f"'{name}' must be a whole number from 0 on, or null for none.", param=name)
    return dict(thresholds)
