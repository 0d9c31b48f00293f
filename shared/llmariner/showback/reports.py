"""Sums of what was held, by time and attribution, with what it cost.

An allocation counts in each bucket for the part of it that lies in it, to the millisecond. What a model that all projects
share holds is split among those who used it, by their tokens in the bucket; what nobody used stays the installation's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from fractions import Fraction
from itertools import pairwise
from operator import add
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, case, func, literal, select

from llmariner.platform.database import Database, ReadSession
from llmariner.showback.prices import Amounts, ComputePriceList
from llmariner.showback.shares import Shares
from llmariner.showback.tables import allocations
from llmariner.showback.utilization import Measured, Use, WorkloadKey, measured_use

__all__ = ["DIMENSIONS", "ComputeQuery", "compute_sums"]

DIMENSIONS = ("organization_id", "project_id", "user_id", "kind", "workload_id", "device", "cluster_id")
_OWNER = ("organization_id", "project_id", "user_id")
_c = allocations.c
_AMOUNTS = {"gpus": _c.gpus, "millicores": _c.millicores, "memory_mib": _c.memory_mib}
_HALF = 2**32
"""Sums are of the halves of numbers of 63 bits: SQLite refuses a larger sum, and a worker cluster may say any amounts."""


@dataclass(frozen=True)
class ComputeQuery:
    """`start`, `end`: Unix seconds, `end` exclusive; `width`: of the buckets. `organization_id` None: of all.

    `where`: dimension → accepted values. `now`: what has not ended is counted until then. `charged_only`: without
    what is charged by its tokens alone, such as models that all projects share, as budgets count.
    """

    organization_id: str | None
    start: int
    end: int
    width: int
    now: float
    group_by: tuple[str, ...] = ()
    where: Mapping[str, Collection[str]] = field(default_factory=dict)
    charged_only: bool = False


@dataclass
class _Sum:
    gpu_ms: int = 0
    millicore_ms: int = 0
    mib_ms: int = 0
    # Of GPUs, cores and memory.
    costs: tuple[Fraction, ...] = (Fraction(0),) * 3
    # Of shared models several rows are of one allocation.
    workloads: set[tuple[str, str]] = field(default_factory=set)
    use: Use = field(default_factory=Use)

    def add(self, key: tuple[str, str], used: Amounts, costs: tuple[Fraction, ...]) -> None:
        self.gpu_ms += used.gpu_ms
        self.millicore_ms += used.millicore_ms
        self.mib_ms += used.mib_ms
        self.costs = tuple(map(add, self.costs, costs))
        self.workloads.add(key)


def compute_sums(database: Database, query: ComputeQuery) -> list[dict[str, Any]]:
    """A row per bucket and group in which something was held: `start`, the dimensions of `group_by`, and the measures.

    Measures: `gpu_ms`, `millicore_ms`, `mib_ms`, `cost` in nano-dollars, the parts of it `gpu_cost`, `core_cost` and
    `memory_cost`, which add up to it, `workloads`, how many, and `use`, what was measured of it.
    """
    found: dict[tuple[Any, ...], _Sum] = {}
    with database.read() as session:
        session.optimize_for_large_reads()
        prices = ComputePriceList.of_span(session, query.start, query.end, charged=query.charged_only)
        shares = Shares(session)
        held = _held(session, query, prices)
        measured = _measured(session, query, held)
        for bucket, row, used in held:
            price = prices.at(row.device, max(row.first_ms, bucket * 1000), row.kind)
            values = {name: getattr(row, name) for name in DIMENSIONS}
            for owner, part in _parts(shares, row, bucket, query, used):
                owned = {**values, **owner}
                if not all(owned[name] in accepted for name, accepted in query.where.items()):
                    continue
                key = (bucket, *(owned[name] for name in query.group_by))
                costs = price.costs(part) if price is not None else (Fraction(0),) * 3
                total = found.setdefault(key, _Sum())
                total.add((row.kind, row.workload_id), part, costs)
                if (use := measured.get((bucket, _workload(row)))) is not None:
                    total.use.add(part, *use)
    return [_result(query, key, sums) for key, sums in sorted(found.items(), key=lambda item: item[0])]


def _held(session: ReadSession, query: ComputeQuery, prices: ComputePriceList) -> list[tuple[int, Row[Any], Amounts]]:
    """What was held in each bucket, by all dimensions and by price, in the order of the buckets.

    One statement for each time between changes of prices, however many buckets there are.
    """
    width_ms, base = query.width * 1000, query.start * 1000
    end_ms = min(query.end * 1000, round(query.now * 1000))
    held: dict[tuple[Any, ...], tuple[int, Row[Any], list[int]]] = {}
    for first, last in pairwise([base, *prices.changes_ms(base, end_ms), end_ms]):
        for row in session.rows(_statement(query, first, last)) if first < last else ():
            group = tuple(getattr(row, name) for name in DIMENSIONS)
            for bucket in range(row.first_bucket, row.last_bucket + 1):
                *_, sums = held.setdefault(
                    (bucket, first, *group), (query.start + bucket * query.width, row, [0] * len(_AMOUNTS))
                )
                for at, name in enumerate(_AMOUNTS):
                    sums[at] += _part_of(row, name, bucket, width_ms)
    return [(bucket, row, Amounts(*sums)) for _, (bucket, row, sums) in sorted(held.items(), key=lambda item: item[0])]


def _workload(row: Row[Any]) -> WorkloadKey:
    return WorkloadKey(row.cluster_id, row.kind, row.workload_id)


def _measured(
    session: ReadSession, query: ComputeQuery, held: Sequence[tuple[int, Row[Any], Amounts]]
) -> dict[tuple[int, WorkloadKey], tuple[Measured, Amounts]]:
    """What was measured of each workload in each bucket, and all that it held there; costs need none of it."""
    if query.charged_only:
        return {}
    found = measured_use(session, query.organization_id, query.start, query.end, query.width)
    whole: dict[tuple[int, WorkloadKey], Amounts] = {}
    for bucket, row, used in held if found else ():
        known = whole.get((bucket, _workload(row)), Amounts(0, 0, 0))
        whole[bucket, _workload(row)] = Amounts(*map(add, astuple(known), astuple(used)))
    return {key: (use, whole[key]) for key, use in found.items() if key in whole}


def _part_of(row: Row[Any], name: str, bucket: int, width_ms: int) -> int:
    """What the allocations of a row hold in one of its buckets, times milliseconds."""
    if bucket == row.first_bucket:
        return _sum_of(row, f"{name}_first")
    if bucket == row.last_bucket:
        return _sum_of(row, f"{name}_last")
    return _sum_of(row, name) * width_ms


def _sum_of(row: Row[Any], name: str) -> int:
    return int(getattr(row, f"{name}_high")) * _HALF + int(getattr(row, f"{name}_low"))


def _parts(
    shares: Shares, row: Row[Any], start: int, query: ComputeQuery, used: Amounts
) -> Iterator[tuple[dict[str, str], Amounts]]:
    if row.organization_id or row.kind != "model":
        # What is not a model and has no owner is the installation's, such as a Job that an operator queued.
        if row.organization_id or query.organization_id is None:
            yield {}, used
        return
    if query.charged_only:
        return
    for owner, part in shares.split(row.workload_id, start, start + query.width, used):
        if query.organization_id is None or owner.organization_id == query.organization_id:
            yield {name: getattr(owner, name) for name in _OWNER}, part


def _statement(query: ComputeQuery, start_ms: int, end_ms: int) -> Any:
    """A row per dimensions, and first and last bucket, of what was held in a span.

    Of each amount: the sum, and the sums of the amounts times the milliseconds in the first and in the last bucket.
    """
    width_ms, base = query.width * 1000, query.start * 1000
    ends = case((_c.ended_ms < end_ms, _c.ended_ms), else_=end_ms)
    begins = case((_c.started_ms > start_ms, _c.started_ms), else_=start_ms)
    first, last = (begins - base) // width_ms, (ends - 1 - base) // width_ms
    in_first: ColumnElement[int] = case((first == last, ends - begins), else_=base + (first + 1) * width_ms - begins)
    in_last: ColumnElement[int] = ends - base - last * width_ms
    bits = literal(_HALF, BigInteger)
    sums = [
        func.sum(half).label(f"{name}{suffix}_{half_name}")
        for name, amount in _AMOUNTS.items()
        for suffix, times in (("", amount), ("_first", amount * in_first), ("_last", amount * in_last))
        for half_name, half in (("high", times // bits), ("low", times % bits))
    ]
    groups = [*(_c[name] for name in DIMENSIONS), first.label("first_bucket"), last.label("last_bucket")]
    statement = (
        select(*groups, *sums, literal(start_ms, BigInteger).label("first_ms"))
        .where(_c.ended_ms > start_ms, _c.started_ms < end_ms, _c.ended_ms > _c.started_ms)
        .group_by(*DIMENSIONS, "first_bucket", "last_bucket")
    )
    if query.organization_id is not None:
        owners = (query.organization_id,) if query.charged_only else (query.organization_id, "")
        statement = statement.where(_c.organization_id.in_(owners))
    for name in ("kind", "workload_id", "device", "cluster_id"):
        if name in query.where:
            statement = statement.where(_c[name].in_(query.where[name]))
    return statement


def _result(query: ComputeQuery, key: Sequence[Any], sums: _Sum) -> dict[str, Any]:
    gpus, cores, _ = sums.costs
    # Rounded as sums, so that the parts add up.
    cost, gpu_cost, with_cores = int(sum(sums.costs)), int(gpus), int(gpus + cores)
    return {
        "start": key[0],
        **dict(zip(query.group_by, key[1:], strict=True)),
        "gpu_ms": sums.gpu_ms,
        "millicore_ms": sums.millicore_ms,
        "mib_ms": sums.mib_ms,
        "cost": cost,
        "gpu_cost": gpu_cost,
        "core_cost": with_cores - gpu_cost,
        "memory_cost": cost - with_cores,
        "workloads": len(sums.workloads),
        "use": sums.use,
    }
