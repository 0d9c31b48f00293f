"""`python -m tests.bench.usage_reads`: how long reports take over a ledger of many requests, on both databases.

The ledger is made here: requests of ninety days, one organization, 20 projects, 400 keys of 200 users, 8 models. Each key
uses two of them, and some keys are far busier than others. Not part of `make bench`: ten million requests take some 5 GB of
disk and a quarter of an hour.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text

from llmariner.gateway.control_plane.port import Rule
from llmariner.limits.ledger_source import LedgerUsageSource
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import DatabaseSettings
from llmariner.usage.aggregation import ROLLUPS, TOKENS
from llmariner.usage.export import ExportFilter, csv_lines
from llmariner.usage.ledger import Ledger
from llmariner.usage.reports import COST_PARTS, UsageQuery, UsageReports
from llmariner.usage.tables import SUM_COLUMNS

DAY, HOUR, MINUTE = 86400, 3600, 60
DAYS = 90
ORGANIZATION = "org_bench"
_PROMPT, _CACHED, _COMPLETION = 150, 75, 600
_ROUNDS = 5
_DAYS_AT_ONCE = 5
_TICKS = os.sysconf("SC_CLK_TCK")

# Numbers that look like chance and are the same everywhere: a multiplicative hash of the row's own.
_MADE = """
INSERT INTO ledger_requests (request_id, organization_id, project_id, user_id, key_id, model, route, outcome, status,
  admitted_at, seen_at, closed_at, waited_seconds, first_token_seconds, total_seconds, prompt_tokens, completion_tokens,
  cached_tokens, reasoning_tokens, price_id, cost)
SELECT {request_id}, '{organization}', 'proj_' || (k % 20), 'user_' || (k / 2),
  'key_' || k, 'organization/model-' || m, r, o, s,
  at, at + seconds, at + seconds, 0.002, 0.3, seconds, p, c, p / 4, c / 8, 'price_1',
  (p - p / 4) * {prompt} + p / 4 * {cached} + c * {completion}
FROM (SELECT n, {start} + n * {step} AS at, (h % 400) * (h / 400 % 400) / 400 AS k,
  (h % 400 * (h / 400 % 400) / 400 + h / 7 % 2) % 8 AS m,
  CASE h / 11 % 10 WHEN 0 THEN 'embeddings' WHEN 1 THEN 'completions' ELSE 'chat_completions' END AS r,
  CASE h / 13 % 20 WHEN 0 THEN 'cancelled' WHEN 1 THEN 'failed' ELSE 'succeeded' END AS o,
  CASE h / 13 % 20 WHEN 0 THEN 499 WHEN 1 THEN 502 ELSE 200 END AS s,
  50 + h / 17 % 3000 AS p, 1 + h / 19 % 700 AS c, 0.5 + h / 23 % 20 AS seconds
  FROM (SELECT n, n * 2654435761 % 4294967291 AS h FROM {numbers}) AS hashed) AS made
"""
_SUMMED = """
INSERT INTO {table} (organization_id, start, {dimensions}, {sums})
SELECT organization_id, {start}, {dimensions}, COUNT(*),
  SUM(prompt_tokens), SUM(completion_tokens), SUM(cached_tokens), SUM(reasoning_tokens), 0, SUM(cost),
  SUM((prompt_tokens - cached_tokens) * {prompt}), SUM(cached_tokens * {cached}), SUM(completion_tokens * {completion}), 0,
  SUM(CAST(total_seconds * 1000000 AS BIGINT)), SUM(CAST(first_token_seconds * 1000000 AS BIGINT)), COUNT(*),
  SUM(CASE outcome WHEN 'succeeded' THEN 1 ELSE 0 END), COUNT(*)
FROM ledger_requests WHERE {span}
GROUP BY organization_id, {start}, {dimensions}
"""


def fill(database: Database, rows: int) -> int:
    """Insert that many requests and their rollups, several days per transaction; returns the start of the period."""
    lite = database.engine.dialect.name == "sqlite"
    start = int(time.time()) // DAY * DAY - DAYS * DAY
    if not lite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET max_wal_size = '256MB'")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
    for first in range(0, DAYS, _DAYS_AT_ONCE):
        _fill_days(database, rows, start, first, lite=lite)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if lite else "VACUUM ANALYZE")
    return start


def _fill_days(database: Database, rows: int, start: int, day: int, *, lite: bool) -> None:
    rates = {"prompt": _PROMPT, "cached": _CACHED, "completion": _COMPLETION}
    first, last = rows * day // DAYS, rows * (day + _DAYS_AT_ONCE) // DAYS - 1
    if lite:
        name = "printf('req_a3f81c0b5d7e92640118%08x', n)"
        counted = f"SELECT {first} UNION ALL SELECT n + 1 FROM c WHERE n < {last}"
        numbers = f"(WITH RECURSIVE c(n) AS ({counted}) SELECT n FROM c)"
        second = "CAST(admitted_at AS INTEGER)"
    else:
        name = "'req_a3f81c0b5d7e92640118' || lpad(to_hex(n), 8, '0')"
        numbers = f"(SELECT n FROM generate_series({first}, CAST({last} AS BIGINT)) AS g(n)) AS counted"
        second = "CAST(FLOOR(admitted_at) AS BIGINT)"
    made = {"request_id": name, "organization": ORGANIZATION, "start": start, "numbers": numbers}
    with database.write() as session:
        session.run(text(_MADE.format(**made, step=f"{DAYS * DAY / rows:.9f}", **rates)))
        since = start + day * DAY
        for rollup in ROLLUPS:
            span = f"admitted_at >= {since} AND admitted_at < {since + _DAYS_AT_ONCE * DAY}"
            start_of = f"{second} / {rollup.width} * {rollup.width}"
            summed = {
                "table": rollup.table.name,
                "dimensions": ", ".join(rollup.dimensions),
                "sums": ", ".join(SUM_COLUMNS),
            }
            session.run(text(_SUMMED.format(**summed, start=start_of, span=span, **rates)))


def questions(start: int) -> dict[str, UsageQuery]:
    """What people and their dashboards ask, as the routes put it."""
    end = start + DAYS * DAY
    key = ("user_id", "key_id", "model")
    chat = {"route": ("chat_completions", "completions")}
    project = {"project_id": ("proj_3",)}
    model = ("requests", "prompt_tokens", "completion_tokens")
    usage = ("requests", *TOKENS)
    latencies = (*model, "ended_requests", "total_microseconds", "first_token_microseconds", "first_tokens")
    money = ("cost", *COST_PARTS, *usage)

    def over(days: float, groups: tuple[str, ...], measures: tuple[str, ...], width: int | None = None) -> UsageQuery:
        where = chat if measures == usage else {}
        return UsageQuery(ORGANIZATION, end - days * DAY, end, groups, width, where, measures)

    ragged = UsageQuery(ORGANIZATION, end - 31.3 * DAY, end - 1234.5, key, None, project, latencies)
    return {
        "api_usages: 31 days by user, key, model": over(31, key, latencies),
        "api_usages: 31 days by key, model, day": over(31, ("key_id", "model"), (*usage, "successful_requests"), DAY),
        "api_usages: one project, unaligned ends": ragged,
        "model-usage-summaries: 7 days by hour": over(7, ("model",), model, HOUR),
        "usage/completions: 31 days by project, model": over(31, ("project_id", "model"), usage, DAY),
        "usage/completions: 168 hours by model": over(7, ("model",), usage, HOUR),
        "usage/completions: 1440 minutes by model": over(1, ("model",), usage, MINUTE),
        "costs: 7 days by project, line item": over(7, ("project_id", "model"), money, DAY),
        "costs: 90 days": over(DAYS, (), ("cost",), DAY),
        "costs: 90 days by project, line item": over(DAYS, ("project_id", "model"), money, DAY),
        "costs: 90 days by key": over(DAYS, ("key_id",), ("cost",), DAY),
    }


def seconds_of(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def cpu_seconds(server: int | None) -> float:
    """All that this process and the database's server have used; SQLite has none. To a hundredth of a second."""
    used = time.process_time()
    if server is not None:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
        stats = {int(name): _stat(name) for name in names}
        # The server's processes; those that have ended are counted by their parent.
        used += sum(sum(stat[11:13]) for pid, stat in stats.items() if server in (pid, stat[1])) / _TICKS
        used += sum(stats[server][13:15]) / _TICKS
    return used


def _stat(pid: str) -> list[int]:
    """The numbers after a process's name: see proc_pid_stat(5). Zeros of one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return [0] * 20
    return [0, *(int(field) for field in fields[1:20])]


def server_of(database: Database) -> int | None:
    """The pid of the server, where there is one."""
    if database.engine.dialect.name == "sqlite":
        return None
    with database.read() as session:
        folder = session.value(text("SHOW data_directory"))
    return int(Path(folder, "postmaster.pid").read_text().split()[0])


def report(name: str, database: Database, rows: int) -> None:
    """Fill, ask, print."""
    begun = time.perf_counter()
    start = fill(database, rows)
    filled = time.perf_counter() - begun
    with database.read() as session:
        sums = [session.value(text(f"SELECT COUNT(*) FROM {rollup.table.name}")) for rollup in ROLLUPS]
    said = ", ".join(f"{count:,} in {rollup.table.name}" for count, rollup in zip(sums, ROLLUPS, strict=True))
    print(f"{name}: {rows:,} requests; sums: {said}; made in {filled:.0f} s", flush=True)
    reports, server = UsageReports(database), server_of(database)
    for what, question in questions(start).items():
        found = reports.sums(question)
        before = cpu_seconds(server)
        times = [seconds_of(partial(reports.sums, question)) for _ in range(_ROUNDS)]
        cpu = (cpu_seconds(server) - before) / _ROUNDS
        wall = statistics.median(times)
        print(
            f"  {what:48} {1000 * wall:7.0f} ms, of a core {1000 * cpu:6.0f} ms   {len(found):7,} rows; "
            f"load {os.getloadavg()[0]:.0f}",
            flush=True,
        )
    day = start + DAYS * DAY - DAY
    rule = Rule("b", ORGANIZATION, "key", "key_12", "*", period="month", amount=1)

    def spent() -> None:
        with database.read() as session:
            LedgerUsageSource(session).spent_since(rule, day - 30 * DAY)

    def exported() -> int:
        return sum(part.count("\n") for part in csv_lines(database, ExportFilter(ORGANIZATION, day, day + HOUR)))

    print(f"  {'a budget of a key, 31 days':52} {1000 * seconds_of(spent):8.1f} ms")
    lines = exported()
    print(f"  {'export of an hour':52} {1000 * seconds_of(exported):8.1f} ms   {lines:7,} lines")
    events = 20 * 500
    print(
        f"  {'recording closing events, by 500':52} {events / seconds_of(lambda: record(database, events)):8.0f} a second"
    )


def record(database: Database, count: int) -> None:
    """As gateways do that close requests."""
    ledger, now = Ledger(database), time.time()
    base: dict[str, Any] = {
        "organization_id": ORGANIZATION,
        "project_id": "proj_3",
        "user_id": "user_1",
    }
    base |= {"model": "organization/model-1", "route": "chat_completions", "outcome": "succeeded", "status": 200}
    base |= {"sequence": 2**31 - 1, "kind": "closed", "at": now, "admitted_at": now - 3, "waited_seconds": 0.1}
    base |= {"first_token_seconds": 0.2, "prompt_tokens": 100, "completion_tokens": 50, "cached_tokens": 10}
    for first in range(0, count, 500):
        ledger.record(
            base | {"request_id": f"req_b3f81c0b5d7e92640118{number:08x}", "key_id": f"key_{number % 50}"}
            for number in range(first, first + 500)
        )


@contextmanager
def databases(chosen: str, folder: Path) -> Iterator[Database]:
    """One of the two, empty."""
    if chosen == "sqlite":
        database = Database(DatabaseSettings(f"sqlite:///{folder / 'ledger.db'}"))
        upgrade(database)
        yield database
        database.close()
        return
    with importlib.import_module("tests.contract.postgres").running() as address:
        database = Database(DatabaseSettings(f"postgresql+psycopg://{address}/postgres", statement_seconds=3600))
        upgrade(database)
        yield database
        database.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.usage_reads", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="requests in the ledger (%(default)s)")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="only that one")
    options = parser.parse_args()
    for chosen in [options.database] if options.database else ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory(prefix="llmariner-usage-") as folder:
            before = shutil.disk_usage(folder).used
            with databases(chosen, Path(folder)) as database:
                report(chosen, database, options.rows)
                print(f"  on disk: {(shutil.disk_usage(folder).used - before) / 2**30:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
