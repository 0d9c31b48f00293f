"""Files of projects that fine-tuning jobs need."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from llmariner.files.file import File
from llmariner.fine_tuning.tables import fine_tuning_files
from llmariner.platform.database import ReadSession, WriteSession

__all__ = ["FineTuningReferences"]


class FineTuningReferences:
    """What jobs have to do with files of projects: those of a job that has not ended stay (`files.FileReferences`)."""

    def in_use_by(self, session: ReadSession, file: File) -> Sequence[str]:
        """The jobs that have not ended and need the file, a few of them."""
        query = select(fine_tuning_files.c.job_id).where(fine_tuning_files.c.file_id == file.id)
        rows = session.rows(query.order_by(fine_tuning_files.c.job_id).limit(5))
        return [f"the fine-tuning job {row.job_id}" for row in rows]

    def on_file_deleted(self, session: WriteSession, file: File) -> None:
        """Nothing: no job needs it."""
