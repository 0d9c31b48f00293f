"""From when on a new price, or a choice of what is charged, is valid, and until when."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Table, or_, select, true, update

from llmariner.errors import InvalidRequest
from llmariner.platform.database import WriteSession
from llmariner.platform.database.revisions import next_revision

__all__ = ["begin_period"]

_CLOCK_SKEW_SECONDS = 60.0
"""How far behind the clock may be of somebody who means now."""


def begin_period(
    session: WriteSession,
    table: Table,
    valid_from: float | None,
    settled: str,
    *,
    same: ColumnElement[bool] | None = None,
) -> tuple[float, float | None]:
    """End the period of a table that covers the requested time; returns when the new one begins and ends (None: never).

    `valid_from` None: now. `same`: the rows that it takes turns with; None: all. Raises InvalidRequest for a time that is
    long past, with what is `settled`. Concurrent changes wait for each other, and gateway instances ask for prices again.
    """
    next_revision(session, "prices")  # locks the row: the next change sees this one
    start = _start(session, valid_from, settled)
    begins, ends, others = table.c.valid_from, table.c.valid_to, true() if same is None else same
    later = session.value(select(begins).where(others, begins > start).order_by(begins))
    covers = (begins <= start) & or_(ends.is_(None), ends > start)
    session.run(update(table).where(others, covers).values(valid_to=start))
    return start, later


def _start(session: WriteSession, valid_from: float | None, settled: str) -> float:
    """The requested time or now, whichever is later.

    Nothing begins earlier than now: what was used until then may be charged to budgets already, and costs that are shown
    would be others.
    """
    now = session.now()
    if valid_from is None:
        return now
    if valid_from < now - _CLOCK_SKEW_SECONDS:
        raise InvalidRequest(
            f"'valid_from' is in the past. {settled} then is settled; leave it out to begin now.", param="valid_from"
        )
    return max(valid_from, now)
