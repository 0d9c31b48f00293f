"""What agents of worker clusters say of fine-tuning jobs: which Jobs of theirs changed."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select

from llmariner.fine_tuning.events import CHANGE_REQUESTED, add_job_event
from llmariner.fine_tuning.port_ids import job_id_of, port_id
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.platform.database import WriteSession

__all__ = ["request_reported"]


def request_reported(session: WriteSession, cluster_id: str, names: Collection[str]) -> None:
    """Have the reconciler look at the jobs on that cluster whose present attempt has one of the names.

    Other names, and those of jobs that are released, are ignored.
    """
    c, ids = fine_tuning_jobs.c, {job_id_of(name) for name in names}
    here = c.id.in_(sorted(ids)) & (c.cluster_id == cluster_id) & c.released.is_(False)
    columns = (c.id, c.attempt, c.project_id, c.organization_id)
    for job in session.rows(select(*columns).where(here).order_by(c.id)) if ids else ():
        if port_id(job) in names:
            add_job_event(session, CHANGE_REQUESTED, job)
