"""Reports and exports of many allocations: one statement for all buckets, and no sort of the rest for each chunk."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import islice

import pytest
from sqlalchemy import text

from llmariner.platform.database import Database
from llmariner.showback.export import csv_lines
from llmariner.showback.reports import ComputeQuery, compute_sums
from llmariner.showback.tables import NOT_ENDED, allocations, compute_prices

from ..query_plans import numbers, statement_plans

HOUR = 3600
START = 1_700_000_000 // HOUR * HOUR
SPAN = 30 * HOUR


@pytest.fixture
def held(database: Database) -> list[dict[str, int | str]]:
    """Allocations that begin and end anywhere, and two prices that change within hours."""
    random_ = random.Random(11)
    rows: list[dict[str, int | str]] = []
    for number in range(150):
        begin = START * 1000 + random_.randrange(-2 * HOUR, SPAN) * 1000 + random_.randrange(1000)
        end = begin + random_.choice((0, 1, 500, HOUR * 1000, random_.randrange(10 * HOUR * 1000)))
        amounts = {"gpus": random_.randrange(9), "millicores": random_.randrange(64_000), "memory_mib": 1 << 20}
        if number % 10 == 0:
            begin, end = begin // (HOUR * 1000) * HOUR * 1000, begin // (HOUR * 1000) * HOUR * 1000 + HOUR * 1000
        who = {"organization_id": "org_1", "project_id": f"proj_{number % 3}", "user_id": "", "cluster_id": ""}
        times = {
            "started_ms": begin,
            "ended_ms": NOT_ENDED if number % 7 == 0 else end,
            "seen_ms": end,
            "charged_ms": begin,
        }
        what = {"id": f"a{number}", "kind": "batch_job", "workload_id": f"job_{number % 5}", "device": "gpu"}
        rows.append({**what, **who, **times, **amounts})
    prices = [(START - HOUR, START + 5 * HOUR + 7), (START + 5 * HOUR + 7, START + 9 * HOUR)]
    with database.write() as session:
        for row in rows:
            session.add(allocations, **row)
        for number, (begin, end) in enumerate(prices):
            each = {"id": f"price_{number}", "device": "gpu", "valid_from": begin, "valid_to": end, "created_at": 0}
            session.add(compute_prices, **each, gpu_hour=10**9 * (number + 1), core_hour=10**7, gib_hour=10**6)
    return rows


def expected(rows: list[dict[str, int | str]], start: int, end: int, now: float) -> dict[str, int]:
    """GPU milliseconds by project, counted one allocation at a time."""
    found: dict[str, int] = {}
    for row in rows:
        first = max(int(row["started_ms"]), start * 1000)
        last = min(int(row["ended_ms"]), end * 1000, round(now * 1000))
        if last > first:
            found[str(row["project_id"])] = found.get(str(row["project_id"]), 0) + int(row["gpus"]) * (last - first)
    return found


def test_buckets_add_up_whatever_begins_and_ends_in_them(database: Database, held: list[dict[str, int | str]]) -> None:
    now = START + 28 * HOUR + 0.25
    query = ComputeQuery("org_1", START, START + SPAN, HOUR, now, ("project_id",))
    found = {(row["start"], row["project_id"]): row["gpu_ms"] for row in compute_sums(database, query)}
    wanted = {
        (start, project): amount
        for start in range(START, START + SPAN, HOUR)
        for project, amount in expected(held, start, start + HOUR, now).items()
    }
    assert {key: amount for key, amount in found.items() if amount} == {k: v for k, v in wanted.items() if v}
    whole = compute_sums(database, ComputeQuery("org_1", START, START + SPAN, SPAN, now))
    assert whole[0]["gpu_ms"] == sum(wanted.values())
    hours = compute_sums(database, ComputeQuery("org_1", START, START + SPAN, HOUR, now))
    assert abs(sum(Fraction(row["cost"]) for row in hours) - whole[0]["cost"]) <= len(hours)
    assert whole[0]["cost"] > 0


def test_the_statements_of_a_report_do_not_grow_with_its_buckets(
    database: Database, held: list[dict[str, int | str]]
) -> None:
    def statements(width: int) -> int:
        query = ComputeQuery("org_1", START, START + SPAN, width, START + SPAN)
        plans = statement_plans(database, lambda: compute_sums(database, query), distinct=False)
        return sum("FROM allocations" in statement for statement, _ in plans)

    assert statements(HOUR) == statements(SPAN) == 3, "prices change twice"


def test_a_chunk_of_an_export_is_read_in_its_order(database: Database) -> None:
    columns = "workload_id, project_id, user_id, cluster_id, device, gpus, millicores, memory_mib, charged_ms"
    values = "'m', 'p', '', '', '', 1, 1, 1, 0"
    of_many = f"(n % 2), n * 1000, n * 1000 + 500, n * 1000 + 500, {values} FROM {numbers(database, 80_000)}"
    with database.write() as session:
        session.run(
            text(
                f"INSERT INTO allocations (id, kind, organization_id, started_ms, seen_ms, ended_ms, {columns}) "
                f"SELECT 'a' || n, 'model', 'org_' || {of_many}"
            )
        )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE allocations")
    lines = csv_lines(database, "org_1", 100, 79_000)
    plans = statement_plans(database, lambda: list(islice(lines, 3)), distinct=False)
    chunks = [plan for statement, plan in plans if "FROM allocations" in statement]
    assert len(chunks) == 2
    for plan in chunks:
        assert "ix_allocations_started" in plan
        assert "TEMP B-TREE" not in plan
        assert "Sort" not in plan
