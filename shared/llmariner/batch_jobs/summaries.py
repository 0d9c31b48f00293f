"""How many jobs a project created in each interval, and what became of them."""

from __future__ import annotations

from sqlalchemy import Table, case, func, literal, select

from llmariner.batch_jobs.tables import batch_jobs
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.identifiers import first_id
from llmariner.platform.database import Database, ReadSession

__all__ = ["COUNTS", "JOB_TYPES", "job_summaries"]

JOB_TYPES = ("JOB_TYPE_BATCH", "JOB_TYPE_FINE_TUNING")
COUNTS = ("created", "completed", "cancelled", "failed", "deleted", "running", "queued", "stopped", "unfinished")
_CLOCK_SECONDS = 60
_UNFINISHED = ("running", "queued", "stopped")
# Statuses of both kinds of jobs, in upstream's words.
_WORDS = {"succeeded": "completed", "canceled": "cancelled", "cancelled": "cancelled", "failed": "failed"}
_WORDS |= {"running": "running", "paused": "stopped"}
_PREFIXES = {"JOB_TYPE_BATCH": "bj", "JOB_TYPE_FINE_TUNING": "ftjob"}

Summaries = dict[int, dict[str, dict[str, int]]]


def job_summaries(database: Database, project_id: str, *, start: int, end: int, width: int) -> Summaries:
    """Per interval of `width` seconds that begins in [start, end) and has any jobs: counts by type of job.

    Jobs are counted where they were created, with the status that they have now; a paused one is `stopped`, and one in any
    other state that has not ended is `queued`.
    """
    found: Summaries = {}
    with database.read() as session:
        for type_, table in zip(JOB_TYPES, (batch_jobs, fine_tuning_jobs), strict=True):
            for at, word, number in _counts(session, table, _PREFIXES[type_], project_id, start, end, width):
                counts = found.setdefault(at, {}).setdefault(type_, dict.fromkeys(COUNTS, 0))
                counts["created"] += number
                counts[word] += number
                counts["unfinished"] += number if word in _UNFINISHED else 0
    return found


def _counts(
    session: ReadSession, table: Table, prefix: str, project_id: str, start: int, end: int, width: int
) -> list[tuple[int, str, int]]:
    c = table.c
    # Ids begin with the time of creation, so the index of a project's jobs bounds what is read; an id is made a moment
    # before or after the time that is stored.
    low, high = (
        first_id(prefix, max(0, at)).replace("_", "-") for at in (start - _CLOCK_SECONDS, end + _CLOCK_SECONDS)
    )
    index = (c["created_at"] - start) // literal(width)
    deleted = c["deleted_at"].is_not(None) if "deleted_at" in c else literal(False)
    status = case((deleted, "deleted"), else_=c["status"])
    mine = select(index.label("i"), status.label("status"), func.count().label("number")).where(
        c["project_id"] == project_id, c["id"] >= low, c["id"] < high, c["created_at"] >= start, c["created_at"] < end
    )
    rows = session.rows(mine.group_by(index, status))
    return [(start + int(row.i) * width, _word(row.status), int(row.number)) for row in rows]


def _word(status: str) -> str:
    return "deleted" if status == "deleted" else _WORDS.get(status, "queued")
