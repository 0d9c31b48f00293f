"""`python -m tests.bench.job_lists`: how long the lists of many jobs take at the API, on both databases.

A project has that many fine-tuning jobs and batch jobs, another one as many. The functions run in this process, with
authentication and JSON, without a connection. Not part of `make bench`: the figures are in docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from llmariner.batch_jobs.tables import batch_jobs
from llmariner.boot import load
from llmariner.context import Context
from llmariner.fine_tuning.tables import fine_tuning_jobs, fine_tuning_metadata
from llmariner.identifiers import first_id
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from .usage_reads import databases

# The type checker sees each folder of tests by itself.
_http, _rows, _jobs, _processes = (
    importlib.import_module(f"tests.functions.{name}")
    for name in ("http_calls", "training_jobs", "queued_jobs", "processes")
)
_CHUNK = 500
_QUEUED = 100
"""The newest jobs of a project, as many as may wait: what runs jobs is asked for the place in line of each."""
_TEAMS = 50
_LIMIT_MS = 100.0
"""What a list of 10,000 jobs may take."""


def main(arguments: list[str] | None = None) -> float:
    """Measure and print; returns the slowest median in milliseconds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.job_lists", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs of each kind in the project (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="requests of each kind (%(default)s)")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], help="only that one")
    options = parser.parse_args(arguments)
    slowest = 0.0
    for chosen in [options.database] if options.database else ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory(prefix="llmariner-jobs-") as folder:
            slowest = max(slowest, _measure(chosen, Path(folder), options.jobs, options.rounds))
    print(f"slowest median: {slowest:.0f} ms; limit at 10,000 jobs: {_LIMIT_MS:.0f} ms")
    return slowest


def _measure(chosen: str, folder: Path, jobs: int, rounds: int) -> float:
    slowest = 0.0
    with _installation(chosen, folder) as (context, owner, secret):
        begun = time.perf_counter()
        _fill(context, owner, jobs)
        filled = time.perf_counter() - begun
        print(
            f"{chosen}: {jobs:,} jobs of each kind, made in {filled:.0f} s; load {os.getloadavg()[0]:.0f}", flush=True
        )
        client = _http.InProcessClient()
        for function, path, query in _questions(jobs):
            application = load(_processes.CHECKOUT / "functions" / function)
            application.use_context(context)
            request = _http.HttpRequest("GET", path, None, {"authorization": f"Bearer {secret}"}, query=query)
            times = []
            for _ in range(rounds + 1):
                begun = time.perf_counter()
                answer = client.send(application, request)
                times.append(1000 * (time.perf_counter() - begun))
                assert answer.status == 200, answer.body
            found = len(answer.json.get("data") or answer.json.get("jobs") or ())
            median = statistics.median(times[1:])
            slowest = max(slowest, median)
            print(
                f"  {path + '?' + query:76} median {median:5.1f} ms, slowest {max(times[1:]):5.1f} ms   {found:3} jobs",
                flush=True,
            )
        client.runner.run(context.gateway.close())
        client.runner.close()
    return slowest


def _questions(jobs: int) -> Iterator[tuple[str, str, str]]:
    """Function, path and query."""
    for function, path, prefix in (
        ("fine_tuning_jobs", "/v1/fine_tuning/jobs", "ftjob"),
        ("batch_jobs", "/v1/batch/jobs", "bj"),
    ):
        for query in (
            "limit=20",
            "limit=100",
            f"limit=100&after={_id(prefix, jobs // 2)}",
            f"limit=100&after={_id(prefix, 5)}",
        ):
            yield function, path, query
    for filters in ("metadata[team]=7", "metadata[team]=7&metadata[run]=57", "metadata[team]=none", "metadata=null"):
        yield "fine_tuning_jobs", "/v1/fine_tuning/jobs", f"limit=100&{filters}"


@contextmanager
def _installation(chosen: str, folder: Path) -> Iterator[tuple[Context, KeyOwner, str]]:
    """An installation on an empty database, its owner, and the secret of a key with all rights."""
    with databases(chosen, folder) as database:
        context = Context(
            {
                "LLMARINER_DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
                "LLMARINER_PEPPER": "0123456789abcdef" * 4,
                "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
                "LLMARINER_SERVING": "static",
                "LLMARINER_SERVING_STATIC": "{}",
                "LLMARINER_OBJECTS_FOLDER": str(folder / "objects"),
            }
        )
        context.jobs = _jobs.QueuedJobs()
        owner = ensure_first_owner(context.database)
        _, secret = create_bootstrap_key(context.keys, owner, "bench")
        assert secret is not None
        yield context, owner, secret
        context.database.close()


def _fill(context: Context, owner: KeyOwner, jobs: int) -> None:
    other = KeyOwner(owner.user_id, "proj_other", owner.organization_id)
    with context.database.write() as session:
        place = {"id": other.project_id, "organization_id": other.organization_id}
        session.add(projects, **place, title="Other", is_default=False, created_at=1)
    for whose in (owner, other):
        numbers = range(jobs)
        tuned = [_tuned(number, jobs, whose) for number in numbers]
        _insert(context, fine_tuning_jobs, tuned)
        _insert(context, fine_tuning_metadata, [pair for row in tuned for pair in _pairs(row)])
        _insert(context, batch_jobs, [_batch(number, jobs, whose) for number in numbers])
    with context.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")


def _insert(context: Context, table: Table, rows: list[dict[str, Any]]) -> None:
    for first in range(0, len(rows), _CHUNK):
        with context.database.write() as session:
            session.insert_many_if_absent(table, rows[first : first + _CHUNK])


def _id(prefix: str, number: int, project: str = "") -> str:
    """Later for a higher number, and another one in each project."""
    head = first_id(prefix, 1_760_000_000 + 60 * number).replace("_", "-", 1)
    return f"{head[:-4]}{'1' if project == 'proj_other' else '0'}{head[-3:]}"


def _tuned(number: int, jobs: int, owner: KeyOwner) -> dict[str, Any]:
    waits = number >= jobs - _QUEUED
    pairs = "{}" if number % 10 == 0 else f'{{"team": "{number % _TEAMS}", "run": "{number}"}}'
    return {
        **_rows.training_job(_id("ftjob", number, owner.project_id), owner),
        "status": "queued" if waits else "succeeded",
        "finished_at": None if waits else 1_760_000_000.0,
        "released": not waits,
        "metadata": pairs,
    }


def _pairs(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    place = {name: row[name] for name in ("organization_id", "project_id")}
    for name, value in json.loads(row["metadata"]).items():
        yield {"job_id": row["id"], "name": name, "value": value, **place}


def _batch(number: int, jobs: int, owner: KeyOwner) -> dict[str, Any]:
    waits = number >= jobs - _QUEUED
    return {
        "id": _id("bj", number, owner.project_id),
        "organization_id": owner.organization_id,
        "project_id": owner.project_id,
        "user_id": owner.user_id,
        "image": "pytorch-2.1",
        "command": "python scripts/train.py",
        "envs": "{}",
        "scripts": "{}",
        "script_names": '["train.py"]',
        "data_files": "[]",
        "environment": "a process of the machine",
        "status": "queued" if waits else "succeeded",
        "created_at": 1_760_000_000 + 60 * number,
        "finished_at": None if waits else 1_760_000_000.0,
    }


if __name__ == "__main__":
    main()
