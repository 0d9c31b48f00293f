"""What agents of worker clusters say of batch jobs: which Jobs of theirs changed."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select

from llmariner.batch_jobs.events import CHANGE_REQUESTED, add_job_event
from llmariner.batch_jobs.port_ids import port_id, split_port_id
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.platform.database import WriteSession

__all__ = ["request_reported"]


def request_reported(session: WriteSession, cluster_id: str, names: Collection[str]) -> None:
    """Have the reconciler look at the jobs on that cluster whose present placement has one of the names.

    Other names, and those of jobs that have ended, are ignored.
    """
    c, ids = batch_jobs.c, {split_port_id(name)[0] for name in names}
    here = c.id.in_(sorted(ids)) & (c.cluster_id == cluster_id) & c.finished_at.is_(None)
    columns = (c.id, c.placement, c.project_id, c.organization_id)
    for job in session.rows(select(*columns).where(here).order_by(c.id)) if ids else ():
        if port_id(job) in names:
            add_job_event(session, CHANGE_REQUESTED, job, change="reported")
