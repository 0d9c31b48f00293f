"""Files of projects that fine-tuning jobs need."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from llmariner.files.file import File
from llmariner.files.purposes import Purpose
from llmariner.fine_tuning.tables import fine_tuning_files, fine_tuning_jobs
from llmariner.platform.database import ReadSession, WriteSession

__all__ = ["FineTuningReferences"]


class FineTuningReferences:
    """What jobs have to do with files of projects: those of a job that has not ended stay (`files.FileReferences`)."""

    def in_use_by(self, session: ReadSession, file: File) -> Sequence[str]:
        """The jobs that have not ended and need the file, a few of them."""
        c = fine_tuning_jobs.c
        if file.purpose is Purpose.FINE_TUNE_STATE:
            # The name begins with the id of its job.
            needed = (c.id == file.filename.rpartition("-")[0]) & (c.state_file == file.id) & c.finished_at.is_(None)
            query = select(c.id.label("job_id")).where(needed)
        else:
            named = fine_tuning_files.c
            query = select(named.job_id).where(named.file_id == file.id).order_by(named.job_id).limit(5)
        return [f"the fine-tuning job {row.job_id}" for row in session.rows(query)]

    def on_file_deleted(self, session: WriteSession, file: File) -> None:
        """Nothing: no job needs it."""
