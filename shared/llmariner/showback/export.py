"""CSV export of allocations, read and written in chunks, each with what it cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, or_, select

from llmariner.platform.database import Database, ReadSession
from llmariner.platform.serving import served_name
from llmariner.showback.charges import cost_until
from llmariner.showback.prices import ComputePriceList
from llmariner.showback.tables import NOT_ENDED, allocations
from llmariner.usage.prices import NANO_PER_DOLLAR

__all__ = ["COLUMNS", "csv_lines"]

COLUMNS = (
    "allocation_id",
    "kind",
    "workload_id",
    "project_id",
    "user_id",
    "cluster_id",
    "device",
    "gpu_count",
    "millicores",
    "memory_mib",
    "started_at",
    "ended_at",
    "held_seconds",
    "cost_usd",
)
_CHUNK = 2000
_c = allocations.c


def csv_lines(database: Database, organization_id: str, start: float, end: float) -> Iterator[str]:
    """Yield CSV text: the header, then a line per allocation of an organization that lasted in [start, end), by start.

    `ended_at` is empty where it lasts; then `held_seconds` and the cost are those until now.
    """
    yield _lines([COLUMNS])
    begins, ends = round(start * 1000), round(end * 1000)
    # `+ 0` keeps the databases from the index of ends, by which they would sort the rest again for each chunk.
    query = select(allocations).where(
        _c.organization_id == organization_id, _c.ended_ms + 0 > begins, _c.started_ms < ends
    )
    query = query.order_by(_c.started_ms, _c.id).limit(_CHUNK)
    position = _c.started_ms >= 0
    while True:
        # No transaction stays open between chunks.
        with database.read() as session:
            rows = session.rows(query.where(position))
            text = _lines(_cells(session, rows))
        if rows:
            yield text
        if len(rows) < _CHUNK:
            return
        last = rows[-1]
        position = (_c.started_ms >= last.started_ms) & or_(_c.started_ms > last.started_ms, _c.id > last.id)


def _cells(session: ReadSession, rows: Any) -> Iterator[list[Any]]:
    if not rows:
        return
    now_ms = round(session.now() * 1000)
    prices = ComputePriceList.of_span(session, min(row.started_ms for row in rows) / 1000, now_ms / 1000 + 1)
    for row in rows:
        yield _row_cells(row, prices, now_ms)


def _row_cells(row: Row[Any], prices: ComputePriceList, now_ms: int) -> list[Any]:
    lasts = row.ended_ms == NOT_ENDED
    until = max(row.started_ms, now_ms) if lasts else row.ended_ms
    dollars, nano = divmod(int(cost_until(prices, row, until)), NANO_PER_DOLLAR)
    values = {
        **row._mapping,
        "allocation_id": row.id,
        "workload_id": served_name(row.workload_id),
        "gpu_count": row.gpus,
        "started_at": row.started_ms / 1000,
        "ended_at": None if lasts else row.ended_ms / 1000,
        "held_seconds": (until - row.started_ms) / 1000,
        "cost_usd": f"{dollars}.{nano:09d}",
    }
    return [values[name] for name in COLUMNS]


def _lines(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
