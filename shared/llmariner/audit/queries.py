"""Queries of the audit log: pages with OpenAI's filters, newest first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, or_, select

from llmariner.audit.tables import audit_log
from llmariner.identifiers import id_timestamp
from llmariner.platform.database import Database, ReadSession
from llmariner.tenancy.tables import projects

__all__ = ["Entry", "Filter", "list_entries"]


@dataclass(frozen=True)
class Filter:
    """Conditions on entries; an empty tuple or None sets none. Times in seconds since 1970; `since`, `until` inclusive."""

    types: tuple[str, ...] = ()
    project_ids: tuple[str, ...] = ()
    actor_ids: tuple[str, ...] = ()
    actor_emails: tuple[str, ...] = ()
    resource_ids: tuple[str, ...] = ()
    after: float | None = None
    since: float | None = None
    before: float | None = None
    until: float | None = None


@dataclass(frozen=True)
class Entry:
    """One entry. `project_title` None: it concerns the whole organization, or a project whose row is gone."""

    id: str
    type: str
    at: float
    project_id: str | None
    project_title: str | None
    actor: dict[str, Any]
    payload: dict[str, Any]
    hash: str = field(repr=False)


def list_entries(
    database: Database,
    organization_id: str,
    filters: Filter,
    *,
    after: str | None = None,
    before: str | None = None,
    limit: int = 20,
) -> list[Entry]:
    """Up to `limit` entries, newest first: those after the entry `after`, or directly before the entry `before`.

    An unknown id is placed by the time of creation that it encodes; for one without a time the result is empty.
    """
    conditions = [audit_log.c.organization_id == organization_id, *_conditions(filters)]
    with database.read() as session:
        for cursor, side in ((after, "older"), (before, "newer")):
            if cursor is None:
                continue
            column, at = _cursor_position(session, organization_id, cursor)
            if at is None:
                return []
            conditions.append(column < at if side == "older" else column > at)
        backwards = before is not None and after is None
        order = audit_log.c.sequence.asc() if backwards else audit_log.c.sequence.desc()
        rows = session.rows(_ENTRIES.where(and_(*conditions)).order_by(order).limit(limit))
    return [_entry(row) for row in (reversed(rows) if backwards else rows)]


_ENTRIES = select(audit_log, projects.c.title.label("project_title")).select_from(
    audit_log.outerjoin(projects, projects.c.id == audit_log.c.project_id)
)


def _cursor_position(
    session: ReadSession, organization_id: str, entry_id: str
) -> tuple[ColumnElement[Any], float | None]:
    """The column to compare and the position of an entry in it; None: no position."""
    same = audit_log.c.organization_id == organization_id
    sequence: int | None = session.value(select(audit_log.c.sequence).where(audit_log.c.id == entry_id, same))
    return (audit_log.c.at, id_timestamp(entry_id)) if sequence is None else (audit_log.c.sequence, sequence)


def _conditions(filters: Filter) -> list[ColumnElement[bool]]:
    bounds = (
        (filters.after, audit_log.c.at.__gt__),
        (filters.since, audit_log.c.at.__ge__),
        (filters.before, audit_log.c.at.__lt__),
        (filters.until, audit_log.c.at.__le__),
    )
    conditions: list[ColumnElement[bool]] = [compare(bound) for bound, compare in bounds if bound is not None]
    if filters.types:
        conditions.append(audit_log.c.type.in_(filters.types))
    if filters.project_ids:
        conditions.append(audit_log.c.project_id.in_(filters.project_ids))
    actor_filters = (("id", filters.actor_ids, audit_log.c.actor), ("email", filters.actor_emails, audit_log.c.actor))
    for name, values, column in (*actor_filters, ("id", filters.resource_ids, audit_log.c.payload)):
        if values:
            conditions.append(_contains_any(column, name, values))
    return conditions


def _contains_any(column: ColumnElement[str], name: str, values: Sequence[str]) -> ColumnElement[bool]:
    """Whether the JSON text has one of these values. Its serialization is canonical, so a substring search is exact."""
    texts = (json.dumps({name: value}, ensure_ascii=False, separators=(",", ":"))[1:-1] for value in values)
    return or_(*(column.contains(text, autoescape=True) for text in texts))


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        type=row.type,
        at=row.at,
        project_id=row.project_id,
        project_title=row.project_title,
        actor=json.loads(row.actor),
        payload=json.loads(row.payload),
        hash=row.hash,
    )
