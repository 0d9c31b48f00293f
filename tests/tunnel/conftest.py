"""One machine, for the modules that test what it serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmariner.clusters.inventory import Inventory
from llmariner.context import Context

from .installation import Installation
from .machine import Machine, process_jobs


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    tmp_path = tmp_path_factory.mktemp("machine")
    installation = Installation(tmp_path)
    installation.assign([])  # it names no cluster, so jobs run here
    environment = {**installation.environment, "LLMARINER_OBJECTS_FOLDER": str(tmp_path / "objects")}
    context = Context(environment)
    jobs = process_jobs(context, tmp_path / "jobs")
    jobs.start()
    try:
        if jobs.problem:
            pytest.skip(jobs.problem)
        context.jobs = jobs
        context.clusters.machine = Inventory
        jobs.subscribe(lambda id_: context.batch_job_reconciler.reconcile(id_) if id_.startswith("bj-") else None)
        yield Machine(installation, context, jobs)
    finally:
        jobs.close()
        context.database.close()
        installation.context.database.close()
