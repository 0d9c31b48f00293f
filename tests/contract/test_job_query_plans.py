"""No query of batch and fine-tuning jobs and of their sweeps reads a whole table of many rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import update

from llmariner.platform.database import Database
from llmariner.platform.jobs import Phase
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from .batch_jobs.scripted_jobs import BatchJobDesk
from .filled_tables import JOB_TABLES, empty_tables, fill_batch_jobs, fill_fine_tuning
from .fine_tuning.training_desk import TrainingDesk, step
from .query_plans import full_scans, statement_plans

ROWS = 20_000


def use_batch_jobs(desk: BatchJobDesk) -> None:
    """What the routes and the reconciliation of batch jobs do."""
    first, second, third = (desk.create() for _ in range(3))
    for after in (None, third):
        desk.jobs.page(desk.project_id, after=after, limit=20)
    desk.jobs.count(desk.project_id)
    desk.reconciled(first)
    desk.scripted.run(first)
    desk.jobs.cancel(desk.caller, second)
    desk.jobs.delete(desk.caller, third)
    desk.reconciler.reconcile_all(seconds=10)
    desk.scripted.end(first, Phase.SUCCEEDED)
    desk.reconciler.reconcile_all(seconds=10)
    assert desk.jobs.get(desk.project_id, first).results == []


def use_fine_tuning(desk: TrainingDesk) -> None:
    """What the routes of fine-tuning do, the processes of jobs, and the sweep."""
    job_id = desk.training(metadata={"team": "search"})
    for after in (None, job_id):
        for metadata in (None, {}, {"team": "search"}):
            desk.jobs.page(desk.project_id, after=after, limit=20, metadata=metadata)
            desk.jobs.count(desk.project_id, metadata)
        desk.history.events(desk.project_id, job_id, after=after, limit=20)
        desk.history.checkpoints(desk.project_id, job_id, after=after, limit=20)
    state = desk.result(job_id, 1, "state", b"state")
    desk.report(job_id, 1, step(1), {"type": "state", "step": 1, "file_id": state})
    desk.jobs.pause(desk.caller, job_id)
    desk.report(job_id, 1, step(2), {"type": "paused", "step": 2})
    desk.reconciled(job_id)
    desk.jobs.resume(desk.caller, job_id)
    desk.reconciled(job_id)
    desk.report(job_id, 2, {"type": "training", "step": 1})
    tuned = str(desk.finish(job_id, 2).fine_tuned_model)
    desk.tuning.permissions.create(desk.caller, tuned, ["proj_b"])
    for order in ("ascending", "descending"):
        [given], _ = desk.tuning.permissions.page(
            desk.caller,
            tuned,
            project_id=None,
            after=None,
            limit=20,
            order=order,
        )
    desk.tuning.permissions.delete(desk.caller, tuned, given.id)
    canceled = desk.create(training_file=desk.file())
    desk.jobs.cancel(desk.caller, canceled)
    desk.tuning.reconciler.reconcile_all(seconds=10)
    with desk.database.write() as session:
        session.run(update(projects).where(projects.c.id == desk.project_id).values(archived_at=1))
    desk.tuning.reconciler.reconcile_all(seconds=10)


def check_plans(database: Database, work: Callable[[], object], *, at_least: int) -> None:
    plans = statement_plans(database, work)
    assert len(plans) >= at_least, len(plans)
    scanned = [f"{statement[:2000]}\n{plan}" for statement, plan in plans if full_scans(plan, JOB_TABLES)]
    assert not scanned, "\n\n".join(scanned)


def test_no_query_of_jobs_reads_a_whole_table(database: Database, owner: KeyOwner, tmp_path: Path) -> None:
    with database.write() as session:
        for name in ("proj_b", *(f"proj_{number}" for number in range(100))):
            row = {"id": name, "organization_id": owner.organization_id, "title": name, "is_default": False}
            session.add(projects, **row, created_at=1)
    batch, training = BatchJobDesk(database, owner), TrainingDesk(database, owner, tmp_path / "objects")
    try:
        fill_batch_jobs(database, ROWS)
        fill_fine_tuning(database, ROWS)
        check_plans(database, lambda: use_batch_jobs(batch), at_least=15)
        check_plans(database, lambda: use_fine_tuning(training), at_least=40)
    finally:
        empty_tables(database, JOB_TABLES)
