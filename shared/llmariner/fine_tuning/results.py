"""Files that jobs make: states, adapters, models, metrics. They are files of the project, under names of their jobs.

States are in no list of files, but their bytes count: a paused job keeps one for as long as it is paused.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, exists, func, literal, select

from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.files.file import NewFile
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.files.references import lock_file
from llmariner.files.tables import files as file_rows
from llmariner.fine_tuning.tables import fine_tuning_checkpoints, fine_tuning_jobs
from llmariner.platform.database import Database, WriteSession
from llmariner.tenancy.principal import maker_of

__all__ = ["ResultKind", "Results"]

_BATCH = 500
_FILE, _JOB = "file-", "ftjob-"
"""The beginnings of ids."""
_LATE_SECONDS = 86400.0
"""A link to upload is valid for an hour, and an upload takes a while."""


class ResultKind(StrEnum):
    """What a process uploads."""

    STATE = "state"
    ADAPTER = "adapter"
    MODEL = "model"
    METRICS = "metrics"


_NAMES = {
    ResultKind.STATE: "state.safetensors",
    ResultKind.ADAPTER: "adapter_model.safetensors",
    ResultKind.MODEL: "model.tar",
    ResultKind.METRICS: "step_metrics.csv",
}
_PURPOSES = dict.fromkeys(ResultKind, Purpose.FINE_TUNE_RESULTS) | {ResultKind.STATE: Purpose.FINE_TUNE_STATE}


class Results:
    """The results of the jobs of one installation. All methods block."""

    def __init__(self, database: Database, files: Files) -> None:
        self._database = database
        self._files = files

    @staticmethod
    def new_file(job_id: str, kind: str) -> NewFile:
        """A file to make. Raises InvalidRequest for another kind."""
        if kind not in list(ResultKind):
            raise InvalidRequest(f"'kind' must be one of {', '.join(ResultKind)}.", param="kind", code="invalid_value")
        purpose = _PURPOSES[ResultKind(kind)]
        return NewFile(_name(job_id, ResultKind(kind)), purpose, "application/octet-stream")

    @staticmethod
    def check_own(session: WriteSession, job: Row[Any], file_id: str) -> None:
        """Raises InvalidRequest unless the job made the file, which nobody deletes before the transaction ends."""
        lock_file(session, file_id)
        c = file_rows.c
        own = select(c.filename, c.purpose).where(c.id == file_id, c.project_id == job.project_id)
        file = session.first(own)
        # No caller can make files of these purposes.
        if file is None or file.purpose not in _PURPOSES.values() or not file.filename.startswith(f"{job.id}-"):
            raise InvalidRequest("The file is none that this job made.", param="records.file_id")

    def delete_states(self, job: Row[Any], *, before: str | None = None) -> None:
        """Delete the states of a job; those made before the file `before`, where it is given."""
        self._delete(job, [each for each in self._ids(job, ResultKind.STATE) if before is None or each < before])

    def delete_leftovers(self, job: Row[Any]) -> None:
        """Delete what an ended job does not need: its states, and results that an interrupted process uploaded last."""
        c = fine_tuning_checkpoints.c
        with self._database.read() as session:
            used = {row.file_id for row in session.rows(select(c.file_id).where(c.job_id == job.id))}
        self.delete_states(job)
        for kind in (ResultKind.ADAPTER, ResultKind.MODEL, ResultKind.METRICS):
            self._delete(job, [each for each in self._ids(job, kind) if each not in used | {job.result_file}])

    def delete_late_results(self) -> None:
        """Delete what was uploaded after the ends of jobs, by links from before: a lost place may. For the sweep."""
        c, job, checkpoint = file_rows.c, fine_tuning_jobs.c, fine_tuning_checkpoints.c
        names = [job.id + _name("", kind) for kind in ResultKind]
        # As `_first_id`: an index gives the project's files since the job was created.
        later = c.id > literal(_FILE) + func.substr(job.id, len(_JOB) + 1)
        of_job = (
            (c.project_id == job.project_id) & c.purpose.in_(set(_PURPOSES.values())) & later & c.filename.in_(names)
        )
        used = exists().where(checkpoint.job_id == job.id, checkpoint.file_id == c.id) | (c.id == job.result_file)
        ended = job.released.is_(True) & (job.finished_at > time.time() - _LATE_SECONDS)
        query = select(fine_tuning_jobs, c.id.label("late_file")).join(file_rows, of_job)
        with self._database.read() as session:
            late = session.rows(query.where(ended, func.coalesce(used, False).is_(False)).limit(_BATCH))
        for row in late:
            self._delete(row, [row.late_file])

    def delete(self, job: Row[Any], file_id: str) -> None:
        """Delete one file of a job. Idempotent."""
        self._delete(job, [file_id])

    def _ids(self, job: Row[Any], kind: ResultKind) -> list[str]:
        c = file_rows.c
        named = (c.project_id == job.project_id) & (c.purpose == _PURPOSES[kind]) & (c.id > _first_id(job))
        query = select(c.id).where(named, c.filename == _name(job.id, kind)).order_by(c.id).limit(_BATCH)
        with self._database.read() as session:
            return [row.id for row in session.rows(query)]

    def _delete(self, job: Row[Any], ids: Collection[str]) -> None:
        for file_id in ids:
            try:
                self._files.delete(maker_of(job), file_id)
            except (Conflict, NotFound):  # in use, or deleted by somebody else
                continue


def _name(job_id: str, kind: ResultKind) -> str:
    return f"{job_id}-{_NAMES[kind]}"


def _first_id(job: Row[Any]) -> str:
    """A file of the job has a later id: both kinds of ids begin with their time."""
    return _FILE + str(job.id).removeprefix(_JOB)
