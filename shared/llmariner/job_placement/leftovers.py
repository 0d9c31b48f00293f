"""What jobs left on clusters that they have left: noted in the transaction of that, and removed once that can be.

A process that was about to submit such a job when it was noted may do so after its removal, and be killed before it looks
again. So the removal is repeated until no process can be in the middle of it any more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import delete, select, update

from llmariner.errors import NotFound
from llmariner.job_placement.tables import job_leftovers
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.jobs import Job, Jobs, JobStatus

__all__ = ["note_leftovers", "remove_leftovers", "submit"]

_log = logging.getLogger(__name__)
_BATCH = 100
"""Removed in one call. The others follow with the next."""
_RETRY_SECONDS = 30.0
_SUBMISSION_SECONDS = 120.0
"""No process takes longer from reading a job's row to submitting it: consumers of events have a minute."""


def submit(port: Jobs, job: Job, is_current: Callable[[], bool]) -> JobStatus:
    """Have a job run, unless it was ended or moved meanwhile: another process found nothing to remove then.

    `is_current`: whether its row still asks for this job here.
    """
    status = port.submit(job)
    if not is_current():
        port.remove(job.id)
    return status


def note_leftovers(session: WriteSession, names: Iterable[str], cluster_id: str | None) -> None:
    """Have jobs removed where they are, as soon as it can be. `names`: their port's ids. `cluster_id` None: at home."""
    now = time.time()
    rows = [{"name": name, "cluster_id": cluster_id, "due_at": now, "noted_at": now} for name in names]
    session.insert_if_absent(job_leftovers, rows)


def remove_leftovers(database: Database, port: Callable[[str | None], Jobs]) -> None:
    """Remove what was noted, on clusters that are there again or gone for good. Idempotent.

    `port`: what runs jobs on a cluster. It raises NotFound for one that is not registered any more. A cluster that fails is
    asked once in a call, whatever it says: it holds up no other.
    """
    due_at, cluster = job_leftovers.c.due_at, job_leftovers.c.cluster_id
    due = select(job_leftovers).where(due_at <= time.time()).order_by(due_at).limit(_BATCH)
    with database.read() as session:
        rows = session.rows(due)
    failed: set[str | None] = set()
    for row in rows:
        if row.cluster_id in failed:
            continue
        over = time.time() > (row.noted_at or 0.0) + _SUBMISSION_SECONDS
        try:
            port(row.cluster_id).remove(row.name)
        except NotFound:
            over = True  # the cluster is not registered any more
        except Exception as error:
            _log.info("what the job %s left on %s is not removed yet: %r", row.name, row.cluster_id, error)
            failed.add(row.cluster_id)
            of_cluster = cluster.is_(None) if row.cluster_id is None else cluster == row.cluster_id
            later = update(job_leftovers).where(of_cluster, due_at <= time.time())
            _write(database, later.values(due_at=time.time() + _RETRY_SECONDS))
            continue
        this = job_leftovers.c.name == row.name
        again = update(job_leftovers).where(this).values(due_at=time.time() + _RETRY_SECONDS)
        _write(database, delete(job_leftovers).where(this) if over else again)


def _write(database: Database, query: Any) -> None:
    database.transact(lambda session: session.run(query))
