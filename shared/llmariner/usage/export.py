"""Requests one by one, as text for spreadsheets: read and written piece by piece, however many there are."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, or_, select

from llmariner.platform.database import Database
from llmariner.usage.prices import NANO_PER_DOLLAR
from llmariner.usage.tables import ledger_requests

__all__ = ["COLUMNS", "ExportFilter", "csv_lines"]

COLUMNS = (
    "request_id",
    "project_id",
    "user_id",
    "api_key_id",
    "model",
    "adapter",
    "route",
    "outcome",
    "status",
    "admitted_at",
    "closed_at",
    "waited_seconds",
    "queued_seconds",
    "wake_seconds",
    "first_token_seconds",
    "total_seconds",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "price_id",
    "cost_usd",
)
_CHUNK = 2000


@dataclass(frozen=True)
class ExportFilter:
    """Which requests of an organisation: admitted in [start, end), None: till now; `where`: column → values wanted."""

    organization_id: str
    start: float
    end: float | None
    where: Mapping[str, Collection[str]] = field(default_factory=dict)


def csv_lines(database: Database, selection: ExportFilter) -> Iterator[str]:
    """A line of names, then one per request, oldest first, some thousand lines at once. Costs are exact."""
    yield _lines([COLUMNS])
    for rows in _chunks(database, selection):
        yield _lines([_cells(row) for row in rows])


def _chunks(database: Database, selection: ExportFilter) -> Iterator[list[Row[Any]]]:
    """Each by a query of its own, which goes on where the one before ended: nothing is held open meanwhile."""
    table = ledger_requests.c
    query = select(ledger_requests).where(table.organization_id == selection.organization_id)
    if selection.end is not None:
        query = query.where(table.admitted_at < selection.end)
    for name, values in selection.where.items():
        query = query.where(table[name].in_(tuple(values)))
    query = query.order_by(table.admitted_at, table.request_id).limit(_CHUNK)
    position = table.admitted_at >= selection.start
    while True:
        with database.read() as session:
            rows = list(session.rows(query.where(position)))
        if rows:
            yield rows
        if len(rows) < _CHUNK:
            return
        last = rows[-1]
        beyond = or_(table.admitted_at > last.admitted_at, table.request_id > last.request_id)
        position = (table.admitted_at >= last.admitted_at) & beyond


def _cells(row: Row[Any]) -> list[Any]:
    dollars, nano = divmod(row.cost, NANO_PER_DOLLAR)
    known = {**row._mapping, "api_key_id": row.key_id, "cost_usd": f"{dollars}.{nano:09d}"}
    return [known[name] for name in COLUMNS]


def _lines(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
