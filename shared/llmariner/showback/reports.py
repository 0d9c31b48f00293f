"""Sums of what was held, by time and attribution, with what it cost.

An allocation counts in each bucket for the part of it that lies in it, to the millisecond. What a model that all projects
share holds is split among those who used it, by their tokens in the bucket; what nobody used stays the installation's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Row, case, func, select

from llmariner.platform.database import Database, ReadSession
from llmariner.showback.prices import Amounts, ComputePriceList
from llmariner.showback.shares import Shares
from llmariner.showback.tables import allocations

__all__ = ["DIMENSIONS", "ComputeQuery", "compute_sums"]

DIMENSIONS = ("organization_id", "project_id", "user_id", "kind", "workload_id", "device", "cluster_id")
_OWNER = ("organization_id", "project_id", "user_id")
_c = allocations.c


@dataclass(frozen=True)
class ComputeQuery:
    """`start`, `end`: Unix seconds, `end` exclusive; `width`: of the buckets. `organization_id` None: of all.

    `where`: dimension → accepted values. `now`: what has not ended is counted until then.
    """

    organization_id: str | None
    start: int
    end: int
    width: int
    now: float
    group_by: tuple[str, ...] = ()
    where: Mapping[str, Collection[str]] = field(default_factory=dict)


@dataclass
class _Sum:
    gpu_ms: int = 0
    millicore_ms: int = 0
    mib_ms: int = 0
    cost: Fraction = Fraction(0)
    # Of shared models several rows are of one allocation.
    workloads: set[tuple[str, str]] = field(default_factory=set)

    def add(self, key: tuple[str, str], used: Amounts, cost: Fraction) -> None:
        self.gpu_ms += used.gpu_ms
        self.millicore_ms += used.millicore_ms
        self.mib_ms += used.mib_ms
        self.cost += cost
        self.workloads.add(key)


def compute_sums(database: Database, query: ComputeQuery) -> list[dict[str, Any]]:
    """A row per bucket and group in which something was held: `start`, the dimensions of `group_by`, and the measures.

    Measures: `gpu_ms`, `millicore_ms`, `mib_ms`, `cost` in nano-dollars, `workloads`, how many.
    """
    found: dict[tuple[Any, ...], _Sum] = {}
    with database.read() as session:
        session.optimize_for_large_reads()
        prices = ComputePriceList.of_span(session, query.start, query.end)
        shares = Shares(session)
        for bucket in range(query.start, query.end, query.width):
            for values, used, cost in _bucket(session, query, bucket, prices, shares):
                if not all(values[name] in accepted for name, accepted in query.where.items()):
                    continue
                key = (bucket, *(values[name] for name in query.group_by))
                found.setdefault(key, _Sum()).add((values["kind"], values["workload_id"]), used, cost)
    return [_result(query, key, sums) for key, sums in sorted(found.items(), key=lambda item: item[0])]


def _bucket(
    session: ReadSession, query: ComputeQuery, start: int, prices: ComputePriceList, shares: Shares
) -> Iterator[tuple[dict[str, str], Amounts, Fraction]]:
    """What was held in a bucket, by all dimensions and by price."""
    now_ms = round(query.now * 1000)
    end_ms = min((start + query.width) * 1000, query.end * 1000, now_ms)
    cuts = [start * 1000, *prices.changes_ms(start * 1000, end_ms), end_ms]
    for first, last in pairwise(cuts):
        if last <= first:
            continue
        for row in session.rows(_statement(query, first, last)):
            values = {name: getattr(row, name) for name in DIMENSIONS}
            used = Amounts(int(row.gpu_ms), int(row.millicore_ms), int(row.mib_ms))
            price = prices.at(row.device, first)
            for owner, part in _parts(shares, row, start, query, used):
                cost = price.cost(part) if price is not None else Fraction(0)
                yield {**values, **owner}, part, cost


def _parts(
    shares: Shares, row: Row[Any], start: int, query: ComputeQuery, used: Amounts
) -> Iterator[tuple[dict[str, str], Amounts]]:
    if row.organization_id or row.kind != "model":
        # What is not a model and has no owner is the installation's, such as a Job that an operator queued.
        if row.organization_id or query.organization_id is None:
            yield {}, used
        return
    for owner, part in shares.split(row.workload_id, start, start + query.width, used):
        if query.organization_id is None or owner.organization_id == query.organization_id:
            yield {name: getattr(owner, name) for name in _OWNER}, part


def _statement(query: ComputeQuery, start_ms: int, end_ms: int) -> Any:
    ends = case((_c.ended_ms < end_ms, _c.ended_ms), else_=end_ms)
    begins = case((_c.started_ms > start_ms, _c.started_ms), else_=start_ms)
    took: ColumnElement[int] = ends - begins
    dimensions = [_c[name] for name in DIMENSIONS]
    sums = {"gpu_ms": _c.gpus, "millicore_ms": _c.millicores, "mib_ms": _c.memory_mib}
    statement = (
        select(*dimensions, *(func.sum(amount * took).label(name) for name, amount in sums.items()))
        .where(_c.ended_ms > start_ms, _c.started_ms < end_ms, _c.ended_ms > _c.started_ms)
        .group_by(*dimensions)
    )
    if query.organization_id is not None:
        statement = statement.where(_c.organization_id.in_((query.organization_id, "")))
    for name in ("kind", "workload_id", "device", "cluster_id"):
        if name in query.where:
            statement = statement.where(_c[name].in_(query.where[name]))
    return statement


def _result(query: ComputeQuery, key: Sequence[Any], sums: _Sum) -> dict[str, Any]:
    return {
        "start": key[0],
        **dict(zip(query.group_by, key[1:], strict=True)),
        "gpu_ms": sums.gpu_ms,
        "millicore_ms": sums.millicore_ms,
        "mib_ms": sums.mib_ms,
        "cost": int(sums.cost),
        "workloads": len(sums.workloads),
    }
