"""Files of projects that fine-tuning jobs need, and those that the models of jobs are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, or_, select

from llmariner.errors import NotFound
from llmariner.files.file import File
from llmariner.files.purposes import Purpose
from llmariner.files.references import FileUse, lock_file
from llmariner.fine_tuning.file_locations import shared_location
from llmariner.fine_tuning.tables import (
    fine_tuning_checkpoints,
    fine_tuning_files,
    fine_tuning_jobs,
    fine_tuning_permissions,
)
from llmariner.models.model import SourceRepository
from llmariner.models.tables import models
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.serving import served_name
from llmariner.tenancy.tables import projects

__all__ = ["FileDeleted", "FineTuningReferences", "keep_file"]

_NAMED = 5
"""So many users of a file an error names."""


class FileDeleted(NotFound):
    """The file that a model was to be made of is deleted."""


def keep_file(session: WriteSession, file_id: str) -> None:
    """Have a file stay until a transaction ends that makes a model of it. Raises FileDeleted. See `lock_file`."""
    if not lock_file(session, file_id):
        raise FileDeleted(f"The file '{file_id}' of the model was deleted.")


class FineTuningReferences:
    """What jobs and their models have to do with files of projects (`FileReferences`).

    The files of a job that has not ended stay, and those of models as long as these exist, also in other projects. Models of
    projects that are archived or gone hold none: nobody could delete them.
    """

    def in_use_by(self, session: ReadSession, file: File) -> Sequence[FileUse]:
        """The jobs that have not ended and need the file, or the models that are made of it; a few of them."""
        c, queries = fine_tuning_jobs.c, []
        # The name of a file that a job makes begins with the job's id.
        own = (c.id == file.filename.rpartition("-")[0]) & c.finished_at.is_(None)
        if file.purpose is Purpose.FINE_TUNE_STATE:
            queries = [select(c.id.label("job_id")).where(own, c.state_file == file.id)]
        else:
            named, made = fine_tuning_files.c, fine_tuning_checkpoints.c
            queries = [select(named.job_id).where(named.file_id == file.id).order_by(named.job_id).limit(_NAMED)]
            # The model of a checkpoint is registered after its report, in a transaction of its own.
            if file.purpose is Purpose.FINE_TUNE_RESULTS:
                of_job = (made.job_id == c.id) & own
                queries.append(select(made.job_id).join(fine_tuning_jobs, of_job).where(made.file_id == file.id))
        jobs = [FileUse(f"the fine-tuning job {row.job_id}") for query in queries for row in session.rows(query)]
        return jobs if file.purpose is Purpose.FINE_TUNE_STATE else [*jobs, *_models_of(session, file)]

    def on_file_deleted(self, session: WriteSession, file: File) -> None:
        """Nothing: no job needs it, and no model."""


def _models_of(session: ReadSession, file: File) -> list[FileUse]:
    """The models that are made of a file: `file_locations.made_file` says which are."""
    c, shared = models.c, shared_location(file.project_id, file.id)
    made = (c.source_repository == SourceRepository.FINE_TUNING) & c.approved & c.deleted.is_(False)
    place = or_((c.project_id == file.project_id) & (c.model_file_location == file.id), c.model_file_location == shared)
    live = or_(c.project_id.is_(None), c.project_id.in_(select(projects.c.id).where(projects.c.archived_at.is_(None))))
    found = session.rows(select(c.id, c.project_id).where(made, place, live).order_by(c.id).limit(_NAMED))
    return [_use(session, file, row) for row in found]


def _use(session: ReadSession, file: File, model: Row[Any]) -> FileUse:
    name = served_name(model.id)
    if model.project_id == file.project_id:
        return FileUse(f"the model '{name}'", f"Delete the model first: DELETE /v1/models/{name}")
    c = fine_tuning_permissions.c
    place = (c.organization_id == file.organization_id) & (c.location == shared_location(file.project_id, file.id))
    row = session.first(select(c.id).where(c.model == name, c.project_id == model.project_id, place))
    if row is None:
        return FileUse("a model of another project", "Ask who runs this platform to delete that model")
    # Who may delete the file may not list the permissions, so they learn no project from this.
    path = f"/v1/fine_tuning/checkpoints/{name}/permissions"
    ending = f"Have an administrator of the organization end its permissions first: GET {path} lists them"
    return FileUse(f"the model '{name}' of another project", ending)
