"""Sums of usage by time, attribution and outcome.

They are read from the coarsest rollups that have the requested dimensions, for the whole days and hours of the span, and
from single requests at its ends. Segments never overlap, so nothing is counted twice; and rollups include purged requests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, case, cast, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from llmariner.errors import InvalidRequest
from llmariner.platform.database import Database
from llmariner.usage.aggregation import HOUR, OPEN, ROLLUPS, TOKENS, Rollup
from llmariner.usage.ledger import retention_watermark
from llmariner.usage.tables import SUM_COLUMNS, ledger_requests

__all__ = ["COST_PARTS", "DIMENSIONS", "MEASURES", "UsageQuery", "UsageReports"]

DIMENSIONS = ROLLUPS[-1].dimensions
COST_PARTS = ("prompt_cost", "cached_cost", "completion_cost", "training_cost")
MEASURES = tuple(name for name in SUM_COLUMNS if name not in COST_PARTS)


@dataclass(frozen=True)
class UsageQuery:
    """A selection of an organization's requests, and how to sum them.

    `start`, `end`: admission time in seconds since 1970, `end` exclusive. `where`: dimension → accepted values.
    `width`: seconds of the time buckets, which start at multiples of it; None: no buckets.
    `measures`: some of MEASURES, and of COST_PARTS for spans of whole hours; fewer are faster.
    """

    organization_id: str
    start: float
    end: float
    group_by: tuple[str, ...] = ()
    width: int | None = None
    where: Mapping[str, Collection[str | int]] = field(default_factory=dict)
    measures: tuple[str, ...] = MEASURES

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise InvalidRequest("'end_time' must be after 'start_time'.", param="end_time")


class _Segment(NamedTuple):
    """Part of a span, and the rollup that it is read from; None: single requests."""

    rollup: Rollup | None
    start: float
    end: float


class _Whole(GenericFunction[int]):
    """The integer part of a number >= 0."""

    type = BigInteger()
    inherit_cache = True
    name = "whole"


@compiles(_Whole)
def _floor(element: Any, compiler: Any, **options: Any) -> str:
    return f"CAST(FLOOR({compiler.process(element.clauses, **options)}) AS BIGINT)"


@compiles(_Whole, "sqlite")
def _truncate(element: Any, compiler: Any, **options: Any) -> str:
    # SQLite's FLOOR may be a Python callback, a hundred times slower than a cast, which truncates.
    return f"CAST({compiler.process(element.clauses, **options)} AS INTEGER)"


class UsageReports:
    """Usage reports of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sums(self, query: UsageQuery) -> list[dict[str, Any]]:
        """A row per group with requests, by bucket and group: `start` of its bucket, its dimensions, and the measures.

        Measures are integers. Raises InvalidRequest for buckets of less than an hour before the retention watermark.
        """
        found: dict[tuple[Any, ...], Sequence[int]] = {}
        groups = len(query.group_by) + (query.width is not None)
        with self._database.read() as session:
            session.optimize_for_large_reads()
            for segment in _segments(query, retention_watermark(session)):
                for row in session.rows(_statement(query, segment)):
                    key, sums = row[:groups], row[groups:]
                    total = found.get(key)
                    found[key] = (
                        sums if total is None else [one + other for one, other in zip(total, sums, strict=True)]
                    )
        names = (*(("start",) if query.width else ()), *query.group_by, *query.measures)
        return [dict(zip(names, (*key, *sums), strict=True)) for key, sums in sorted(found.items()) if any(sums)]


def _segments(query: UsageQuery, watermark: int) -> Iterator[_Segment]:
    start, end, width = query.start, query.end, query.width
    if start < watermark:
        if width is not None and width % HOUR:
            raise InvalidRequest(
                f"Requests from before {watermark} (seconds since 1970) are kept by the hour only: ask for buckets of whole "
                "hours, or for a later start.",
                param="start_time",
            )
        start = start // HOUR * HOUR
        if end < watermark:
            end = math.ceil(end / HOUR) * HOUR
    if end > time.time():
        end = math.ceil(end / HOUR) * HOUR  # no request is admitted in the future
    asked = {*query.group_by, *query.where}
    rollups = [
        rollup
        for rollup in ROLLUPS
        if asked.issubset(rollup.dimensions) and (width is None or width % rollup.width == 0)
    ]
    yield from _split(start, end, rollups)


def _split(start: float, end: float, rollups: Sequence[Rollup]) -> Iterator[_Segment]:
    """Split a span into as few segments as possible, the coarsest in the middle."""
    if start >= end:
        return
    if not rollups:
        yield _Segment(None, start, end)
        return
    width, finer = rollups[0].width, rollups[1:]
    first, last = math.ceil(start / width) * width, math.floor(end / width) * width
    if first >= last:
        yield from _split(start, end, finer)
        return
    yield from _split(start, first, finer)
    yield _Segment(rollups[0], first, last)
    yield from _split(last, end, finer)


def _statement(query: UsageQuery, segment: _Segment) -> Select[Any]:
    table = (segment.rollup.table if segment.rollup else ledger_requests).c
    when: ColumnElement[Any] = table.start if segment.rollup else table.admitted_at
    groups: list[ColumnElement[Any]] = []
    if query.width is not None:
        groups.append(_bucket(when, query.width, segment.rollup).label("bucket"))
    groups += [table[name] for name in query.group_by]
    statement = select(*groups, *(_sum(name, table, segment) for name in query.measures)).where(
        table.organization_id == query.organization_id, when >= segment.start, when < segment.end
    )
    for name, values in query.where.items():
        statement = statement.where(table[name].in_(tuple(values)))
    return statement.group_by(*groups)


def _bucket(when: ColumnElement[Any], width: int, rollup: Rollup | None) -> ColumnElement[Any]:
    if rollup is None:
        return func.whole(when / width) * width
    return when if rollup.width == width else when - when % width


def _sum(name: str, table: Any, segment: _Segment) -> ColumnElement[Any]:
    # PostgreSQL sums bigint to numeric, which is ten times slower to read.
    return cast(func.coalesce(func.sum(_measured(name, table, segment)), 0), BigInteger)


def _measured(name: str, table: Any, segment: _Segment) -> ColumnElement[Any]:
    if segment.rollup or name in (*TOKENS, "cost"):
        found: ColumnElement[Any] = table[name]
        return found
    if name in COST_PARTS:
        raise ValueError("components of costs are summed by whole hours only")
    if name in _CONDITIONS:
        return case((_CONDITIONS[name](table), 1), else_=0)
    seconds = table.total_seconds if name == "total_microseconds" else table.first_token_seconds
    return func.whole(seconds * 1_000_000 + 0.5)


_CONDITIONS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "requests": lambda table: table.request_id.is_not(None),
    "successful_requests": lambda table: table.outcome == "succeeded",
    "ended_requests": lambda table: table.outcome != OPEN,
    "first_tokens": lambda table: table.first_token_seconds.is_not(None),
}
