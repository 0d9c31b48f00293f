"""What the database is asked all the time costs on a large ledger, by the release before and by this one.

`python -m tests.bench.ledger_scale --rows 10000000` fills a database as the release before does, measures that release's
code on its own schema, brings the schema up to date, and measures this code. Wall time in milliseconds, medians of five.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select, text, update

from llmariner.gateway.control_plane.port import Amounts, Key, LeaseReport, LeaseRequest, Rule
from llmariner.limits.leases import Leases
from llmariner.limits.ledger_source import LedgerUsageSource
from llmariner.limits.tables import allowances
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events.deliveries import Deliveries
from llmariner.settings import DatabaseSettings
from llmariner.usage.export import ExportFilter, csv_lines
from llmariner.usage.ledger import Ledger
from llmariner.usage.reports import UsageQuery, UsageReports

from .usage_reads import DAY, DAYS, ORGANIZATION, fill, seconds_of

CHECKOUT = Path(__file__).parents[2]
PREVIOUS = "25c7b8a48d8f"
PROCESS = "req_a3f81c0b5d7e92640118"
EVENTS = 200_000
_ROUNDS = 5

# Every ten-thousandth is of the one project; the others are of fifty organizations.
_EVENTS = """
INSERT INTO events (sequence, id, type, subject, project_id, time, data, published)
SELECT n, 'evt_' || n, 'ai.llmariner.model.updated.v1', 'models/' || n, CASE WHEN n % 10000 = 0 THEN 'proj_3' END, {now},
  CASE WHEN n % 10000 = 0 THEN '{{}}' ELSE '{{"organization_id"\\:"org_' || (n % 50) || '"}}' END, {true}
FROM {numbers}
"""


def fill_events(database: Database) -> None:
    """Events of fifty organizations, and few of one project."""
    lite = database.engine.dialect.name == "sqlite"
    counted = f"SELECT 1 AS n UNION ALL SELECT n + 1 FROM c WHERE n < {EVENTS}"
    numbers = (
        f"(WITH RECURSIVE c(n) AS ({counted}) SELECT n FROM c)" if lite else f"generate_series(1, {EVENTS}) AS g(n)"
    )
    with database.write() as session:
        session.run(text(_EVENTS.format(now=time.time(), numbers=numbers, true="1" if lite else "true")))


def bring_up_to_date(database: Database) -> None:
    """This release's schema, and events as this release writes them."""
    begun = time.perf_counter()
    upgrade(database)
    print(f"  {'the migrations to this release':58} {time.perf_counter() - begun:8.1f} s", flush=True)
    whose = "coalesce(project_id, 'org_' || CAST(sequence % 50 AS TEXT))"
    with database.write() as session:
        session.run(text(f"UPDATE events SET audience = {whose}"))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")


def silence(database: Database) -> None:
    """As if what each process holds had run out."""
    with database.write() as session:
        for row in session.rows(select(allowances)):
            state = json.loads(row.state)
            for part in state["replicas"].values():
                part[2] -= 60
                part[3] -= 3600
            session.run(update(allowances).where(allowances.c.id == row.id).values(state=json.dumps(state)))


def lease_of_a_key(database: Database) -> float:
    """Seconds of a lease while a process is to be settled that fell silent holding some."""
    leases = Leases(database, {"requests_per_minute": 6000, "tokens_per_minute": 1_000_000})
    key = Key("key_12", "proj_3", ORGANIZATION, "user_6", frozenset(), None, unlimited=False)
    leases.lease(LeaseRequest(PROCESS, time.time(), (), key, "*", Amounts(1, 10, 1)))
    with database.read() as session:
        (rule,) = (row.id for row in session.rows(select(allowances.c.id)))
    wanted = LeaseReport(rule, Amounts(), Amounts(), Amounts(10, 1000), Amounts())
    leases.lease(LeaseRequest(PROCESS, time.time(), [wanted]))
    silence(database)
    return seconds_of(lambda: leases.lease(LeaseRequest("req_" + "b" * 20, time.time(), [wanted])))


def works(database: Database) -> dict[str, Callable[[], object]]:
    """What is done, by name."""
    ledger, end = Ledger(database), int(time.time()) // DAY * DAY
    key = Rule("b", ORGANIZATION, "key", "key_12", "*", period="month", amount=1)
    project = Rule("b", ORGANIZATION, "project", "proj_3", "*", period="month", amount=1)
    usage = UsageQuery(ORGANIZATION, end - 31 * DAY, end, ("project_id", "model"), DAY)

    def settled(rule: Rule) -> None:
        with database.read() as session:
            LedgerUsageSource(session).unreported_usage(rule, PROCESS, end - 60)

    def spent(rule: Rule) -> None:
        with database.read() as session:
            LedgerUsageSource(session).spent_since(rule, end - 30 * DAY)

    def page() -> None:
        Deliveries(database, ()).page("proj_3", None, organization_id="org_none", after=None, limit=20)

    return {
        "settling a silent process: a limit of a key": lambda: settled(key),
        "settling a silent process: a budget of a project": lambda: settled(project),
        "a budget of a key at the start of its period, 31 days": lambda: spent(key),
        "a budget of a project at the start of its period, 31 days": lambda: spent(project),
        "sweep: what gave no sign of life": lambda: ledger.interrupt(unseen_for=60),
        "sweep: how long a model is idle": lambda: ledger.idle_since(["organization/model-1"]),
        "sweep: old requests, none to drop": lambda: ledger.purge(older_than=(DAYS + 5) * DAY),
        "list: requests of an hour": lambda: list(
            csv_lines(database, ExportFilter(ORGANIZATION, end - DAY, end - DAY + 3600))
        ),
        f"list: a project's events among {EVENTS:,} of others": page,
        "report: 31 days by project, model, day": lambda: UsageReports(database).sums(usage),
    }


def measure(database: Database) -> None:
    """Print each work's median."""
    for name, work in works(database).items():
        work()
        times = [seconds_of(work) for _ in range(_ROUNDS)]
        print(f"  {name:58} {1000 * statistics.median(times):8.1f} ms", flush=True)
    leases = [lease_of_a_key(database) for _ in range(_ROUNDS)]
    print(f"  {'a lease while a silent process is settled':58} {1000 * statistics.median(leases):8.1f} ms", flush=True)


def step(name: str, database: Database, rows: int) -> None:
    """`before`: by the code on the path, which is the release before."""
    if name == "before":
        upgrade(database)
        begun = time.perf_counter()
        fill(database, rows)
        fill_events(database)
        print(f"  {'made in':58} {time.perf_counter() - begun:8.1f} s", flush=True)
    else:
        bring_up_to_date(database)
    measure(database)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ledger_scale", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="requests in the ledger (%(default)s)")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--step", choices=["before", "after"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        settings = DatabaseSettings(options.url)
        if options.step == "after":  # the release before has no limit to be lifted
            settings = replace(settings, statement_seconds=3600.0)
        step(options.step, Database(settings), options.rows)
        return
    for chosen in options.database or ["sqlite", "postgresql"]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmariner-ledger-")))
            url = f"sqlite:///{folder / 'ledger.db'}"
            if chosen == "postgresql":
                server = importlib.import_module("tests.contract.postgres").running()
                url = f"postgresql+psycopg://{stack.enter_context(server)}/postgres"
            run_both(url, options.rows, folder, chosen)


def run_both(url: str, rows: int, folder: Path, chosen: str) -> None:
    """Each release in a process of its own, on one database."""
    archive = subprocess.run(["git", "archive", PREVIOUS, "shared"], cwd=CHECKOUT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    for name, package in (("before", folder / "shared"), ("after", CHECKOUT / "shared")):
        print(f"{chosen}, {rows:,} requests, {name}; load {os.getloadavg()[0]:.0f}", flush=True)
        command = [sys.executable, "-m", "tests.bench.ledger_scale", "--step", name, "--url", url, "--rows", str(rows)]
        subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(package)}, check=True)


if __name__ == "__main__":
    main()
