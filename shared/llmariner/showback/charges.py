"""What allocations cost, charged to the budgets of who holds them, while they last and once at their end."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import pairwise
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.gateway.control_plane.port import Key
from llmariner.limits.direct_charges import DirectCharges
from llmariner.platform.database import Database, WriteSession
from llmariner.showback.prices import Amounts, ComputePriceList
from llmariner.showback.tables import NOT_ENDED, allocations, compute_charges

__all__ = ["charge_budgets", "cost_until"]

_BATCH = 100
_DAY = 86400
_c = allocations.c


def charge_budgets(database: Database, *, seconds: float) -> int:
    """Charge what was held since the last charge; returns the number of allocations. Idempotent.

    Models that all projects share are charged to nobody: their tokens are. `seconds`: how long it may take; the next call
    continues with what is left.
    """
    deadline, charged, last = time.monotonic() + seconds, 0, ""
    while time.monotonic() < deadline:
        query = select(_c.id).where(_c.settled.is_(False), _c.id > last).order_by(_c.id).limit(_BATCH)
        with database.read() as session:
            ids = [row.id for row in session.rows(query)]
        for id_ in ids:
            charged += database.transact(lambda session, id_=id_: _charge(session, id_))  # type: ignore[misc]
        if len(ids) < _BATCH:
            break
        last = ids[-1]
    return charged


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
    prices = ComputePriceList.of_span(session, row.started_ms / 1000, max(row.started_ms + 1, until) / 1000)
    return int(cost_until(prices, row, until)) - int(cost_until(prices, row, row.charged_ms))


def cost_until(prices: ComputePriceList, row: Row[Any], until: int) -> Fraction:
    """Nano-dollars of an allocation, a row of `allocations`, from its start until then, in milliseconds."""
    total = Fraction(0)
    cuts = [row.started_ms, *prices.changes_ms(row.started_ms, until), until]
    for start, end in pairwise(cuts):
        if (price := prices.at(row.device, start)) is not None and end > start:
            took = end - start
            total += price.cost(Amounts(row.gpus * took, row.millicores * took, row.memory_mib * took))
    return total
