"""What allocations cost, charged to the budgets of who holds them, while they last and once at their end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Row, or_, select, true, update

from llmariner.errors import Unavailable
from llmariner.gateway.control_plane.port import Key
from llmariner.limits.direct_charges import DirectCharges
from llmariner.platform.database import Database, WriteSession
from llmariner.showback.prices import Amounts, ComputePriceList
from llmariner.showback.tables import NOT_ENDED, allocations, compute_charges

__all__ = ["charge_budgets", "cost_until"]

_log = logging.getLogger(__name__)
_BATCH = 100
_DAY = 86400
_c = allocations.c


def charge_budgets(database: Database, *, seconds: float) -> int:
    """Charge what was held since the last charge; returns the number of allocations. Idempotent.

    Models that all projects share are charged to nobody: their tokens are. `seconds`: how long it may take, after which the
    next call begins with those that were charged least recently. One that fails is logged and holds up no other.
    """
    deadline, charged = time.monotonic() + seconds, 0
    for id_ in _due(database):
        try:
            charged += database.transact(lambda session, id_=id_: _charge(session, id_))  # type: ignore[misc]
        except Unavailable:
            raise
        except Exception:  # such as an amount that does not fit into the database
            _log.exception("the allocation %s was not charged", id_)
        if time.monotonic() > deadline:
            break
    return charged


def _due(database: Database) -> Iterator[str]:
    """The ids of allocations that may cost something since their last charge, that of the longest ago first."""
    with database.read() as session:
        now_ms = round(session.now() * 1000)
    due = _c.settled.is_(False) & or_(_c.charged_ms < now_ms, _c.ended_ms != NOT_ENDED)
    query = select(_c.id, _c.charged_ms).where(due).order_by(_c.charged_ms, _c.id).limit(_BATCH)
    position: ColumnElement[bool] = true()
    while True:
        with database.read() as session:
            rows = session.rows(query.where(position))
        yield from (row.id for row in rows)
        if len(rows) < _BATCH:
            return
        last = rows[-1]
        position = (_c.charged_ms >= last.charged_ms) & or_(_c.charged_ms > last.charged_ms, _c.id > last.id)


def _charge(session: WriteSession, id_: str) -> int:
    row = session.first(select(allocations).where(_c.id == id_, _c.settled.is_(False)).with_for_update())
    if row is None:
        return 0
    now = session.now()
    has_ended = row.ended_ms != NOT_ENDED
    until = row.ended_ms if has_ended else max(row.charged_ms, round(now * 1000))
    money = _cost(session, row, until) if row.organization_id else 0
    if money:
        payer = Key(
            id=row.user_id,
            project_id=row.project_id,
            organization_id=row.organization_id,
            user_id=row.user_id,
            scopes=frozenset(),
            expires_at=None,
            unlimited=False,
        )
        charges = DirectCharges(session, payer)
        owner = {name: row._mapping[name] for name in ("organization_id", "project_id", "user_id")}
        day = int(now) // _DAY * _DAY
        session.upsert(compute_charges, [{**owner, "start": day, "cost": money}], accumulate=("cost",))
        charges.add(money)
    session.run(update(allocations).where(_c.id == id_).values(charged_ms=until, settled=has_ended))
    return 1


def _cost(session: WriteSession, row: Row[Any], until: int) -> int:
    """Nano-dollars from `charged_ms` until then: the difference of the rounded sums, so that no part is lost."""
    # Where nobody saw its end, that may be before the last charge.
    end_ms = max(row.started_ms + 1, until, row.charged_ms)
    prices = ComputePriceList.of_span(session, row.started_ms / 1000, end_ms / 1000, charged=True)
    return int(cost_until(prices, row, until)) - int(cost_until(prices, row, row.charged_ms))


def cost_until(prices: ComputePriceList, row: Row[Any], until: int) -> Fraction:
    """Nano-dollars of an allocation, a row of `allocations`, from its start until then, in milliseconds."""
    total = Fraction(0)
    cuts = [row.started_ms, *prices.changes_ms(row.started_ms, until), until]
    for start, end in pairwise(cuts):
        if (price := prices.at(row.device, start, row.kind)) is not None and end > start:
            took = end - start
            total += price.cost(Amounts(row.gpus * took, row.millicores * took, row.memory_mib * took))
    return total
