"""CSV export of single requests, read and written in chunks."""

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
    "trained_tokens",
    "price_id",
    "cost_usd",
)
_CHUNK = 2000


@dataclass(frozen=True)
class ExportFilter:
    """Requests of an organization admitted in [start, end), end None: until now; `where`: column → accepted values."""

    organization_id: str
    start: float
    end: float | None
    where: Mapping[str, Collection[str]] = field(default_factory=dict)


def csv_lines(database: Database, selection: ExportFilter) -> Iterator[str]:
    """Yield CSV text: the header, then a line per request, oldest first, up to `_CHUNK` lines at once. Costs are exact."""
    yield _lines([COLUMNS])
    for rows in _chunks(database, selection):
        yield _lines([_cells(row) for row in rows])


def _chunks(database: Database, selection: ExportFilter) -> Iterator[list[Row[Any]]]:
    """Yield rows by keyset pagination, so that no transaction stays open between chunks."""
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
        after_last = or_(table.admitted_at > last.admitted_at, table.request_id > last.request_id)
        position = (table.admitted_at >= last.admitted_at) & after_last


def _cells(row: Row[Any]) -> list[Any]:
    dollars, nano = divmod(row.cost, NANO_PER_DOLLAR)
    values = {**row._mapping, "api_key_id": row.key_id, "cost_usd": f"{dollars}.{nano:09d}"}
    return [values[name] for name in COLUMNS]


def _lines(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
