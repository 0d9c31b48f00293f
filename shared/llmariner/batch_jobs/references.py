"""Files of projects that batch jobs need."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select

from llmariner.batch_jobs.tables import batch_job_files, batch_job_results
from llmariner.files.file import File
from llmariner.files.references import FileUse
from llmariner.platform.database import ReadSession, WriteSession

__all__ = ["BatchJobReferences"]


class BatchJobReferences:
    """What jobs have to do with files of projects: those of a job that has not ended stay (`FileReferences`)."""

    def in_use_by(self, session: ReadSession, file: File) -> Sequence[FileUse]:
        """The jobs that are queued or running with the file, a few of them."""
        query = select(batch_job_files.c.batch_job_id).where(batch_job_files.c.file_id == file.id)
        rows = session.rows(query.order_by(batch_job_files.c.batch_job_id).limit(5))
        return [FileUse(f"the batch job {row.batch_job_id}") for row in rows]

    def on_file_deleted(self, session: WriteSession, file: File) -> None:
        """It is no result of a job any more."""
        session.run(delete(batch_job_results).where(batch_job_results.c.file_id == file.id))
