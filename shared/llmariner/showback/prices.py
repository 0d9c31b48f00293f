"""The price list of compute: what an hour of a GPU, a core and a GiB of memory costs, by kind of device and time.

A price that was valid never changes: a new one starts now or later, and ends the previous one.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from sqlalchemy import Row, and_, or_, select

from llmariner.audit import log as audit
from llmariner.errors import InvalidRequest
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession
from llmariner.showback.tables import compute_prices
from llmariner.tenancy.principal import Caller
from llmariner.usage.charge_policies import Charge, ChargePolicyList
from llmariner.usage.prices import NANO_PER_DOLLAR
from llmariner.usage.validity import begin_period

__all__ = ["ALL_DEVICES", "Amounts", "ComputePrice", "ComputePriceList", "ComputePrices"]

ALL_DEVICES = "*"
_KINDS_WITH_TOKENS = frozenset({"model", "fine_tuning_job"})
_MAX_PRICE = 10**6 * NANO_PER_DOLLAR
_HOUR_MS = 3_600_000
_c = compute_prices.c


@dataclass(frozen=True)
class Amounts:
    """What was held for how long, in milliseconds of a GPU, of a thousandth of a core, and of a MiB."""

    gpu_ms: int
    millicore_ms: int
    mib_ms: int


@dataclass(frozen=True)
class ComputePrice:
    """Nano-dollars for an hour of a GPU, a core, a GiB. `valid_to` None: no end. Times are Unix seconds."""

    id: str
    device: str
    valid_from: float
    valid_to: float | None
    gpu_hour: int
    core_hour: int
    gib_hour: int
    created_at: int

    def cost(self, used: Amounts) -> Fraction:
        """What that costs, in nano-dollars."""
        return sum(self.costs(used), Fraction(0))

    def costs(self, used: Amounts) -> tuple[Fraction, Fraction, Fraction]:
        """The parts of that cost: of GPUs, of cores, of memory."""
        gpus = Fraction(used.gpu_ms * self.gpu_hour, _HOUR_MS)
        cores = Fraction(used.millicore_ms * self.core_hour, 1000 * _HOUR_MS)
        return gpus, cores, Fraction(used.mib_ms * self.gib_hour, 1024 * _HOUR_MS)


class ComputePriceList:
    """All prices that are valid somewhere in a span of time. Lookups are fast where there are many.

    `policies`: those of the span; with them what is charged by its tokens alone is free.
    """

    def __init__(self, listed: Sequence[ComputePrice], policies: ChargePolicyList | None = None) -> None:
        self._policies = policies or ChargePolicyList()
        self._of_device: dict[str, list[tuple[int, float, ComputePrice]]] = {}
        times: set[int] = set()
        for each in sorted(listed, key=lambda price: (price.valid_from, price.id)):
            begins = round(each.valid_from * 1000)
            ends = math.inf if each.valid_to is None else round(each.valid_to * 1000)
            if begins < ends:
                # Those of a device follow each other, so that the last one that began is the only one that may be valid.
                self._of_device.setdefault(each.device, []).append((begins, ends, each))
                times |= {begins} if each.valid_to is None else {begins, int(ends)}
        self._changes = sorted(times | self._policies.changes_ms())

    @classmethod
    def of_span(cls, session: ReadSession, start: float, end: float, *, charged: bool = False) -> ComputePriceList:
        """The prices of a span, in Unix seconds. `charged`: of what is charged; else of all that is held."""
        valid = and_(_c.valid_from < end, or_(_c.valid_to.is_(None), _c.valid_to > start))
        policies = ChargePolicyList.of_span(session, start, end) if charged else None
        return cls([_from_row(row) for row in session.rows(select(compute_prices).where(valid))], policies)

    def changes_ms(self, start_ms: int, end_ms: int) -> list[int]:
        """When prices change strictly inside a span, in milliseconds, each once and in order."""
        return self._changes[bisect_right(self._changes, start_ms) : bisect_left(self._changes, end_ms)]

    def at(self, device: str, at_ms: int, kind: str = "") -> ComputePrice | None:
        """The price of a device at a time for a kind of workload: its own, else that of `ALL_DEVICES`; None: it is free."""
        if kind in _KINDS_WITH_TOKENS and self._policies.at(at_ms) is Charge.TOKENS:
            return None
        for name in (device, ALL_DEVICES):
            listed = self._of_device.get(name, ())
            index = bisect_right(listed, at_ms, key=lambda each: each[0]) - 1
            if index >= 0 and at_ms < listed[index][1]:
                return listed[index][2]
        return None


class ComputePrices:
    """The compute prices of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(
        self, actor: Caller, device: str, *, gpu_hour: int, core_hour: int, gib_hour: int, valid_from: float | None
    ) -> ComputePrice:
        """Set a price from now or a later time on. The caller has checked that the actor runs the installation."""
        amounts = {"gpu_hour": gpu_hour, "core_hour": core_hour, "gib_hour": gib_hour}
        for name, amount in amounts.items():
            if not 0 <= amount <= _MAX_PRICE:
                raise InvalidRequest(f"'{name}' must be from 0 to {_MAX_PRICE // NANO_PER_DOLLAR} dollars.", param=name)
        with self._database.write() as session:
            start, end = begin_period(
                session, compute_prices, valid_from, "What compute cost", same=_c.device == device
            )
            price = ComputePrice(new_id("price"), device, start, end, **amounts, created_at=int(session.now()))
            session.add(compute_prices, **asdict(price))
            payload = {"id": price.id, "data": asdict(price)}
            audit.append_entry(session, actor, "compute_price.created", payload, organization_id=actor.organization_id)
            return price

    def page(self, *, device: str | None, after: str | None, limit: int) -> Sequence[ComputePrice]:
        """Prices by id from `after` on; `device`: of that kind only."""
        query = select(compute_prices)
        if device is not None:
            query = query.where(_c.device == device)
        if after is not None:
            query = query.where(_c.id > after)
        with self._database.read() as session:
            return [_from_row(row) for row in session.rows(query.order_by(_c.id).limit(limit))]


def _from_row(row: Row[Any]) -> ComputePrice:
    return ComputePrice(**row._mapping)
