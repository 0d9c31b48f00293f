"""How many trained models a project keeps: those that its jobs have made, and those that jobs under way will make."""

from __future__ import annotations

from sqlalchemy import select

from llmariner.errors import Conflict
from llmariner.fine_tuning.checkpoint_names import result_name
from llmariner.fine_tuning.file_locations import file_of
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.models.model import SourceRepository
from llmariner.models.tables import models
from llmariner.platform.database import ReadSession
from llmariner.platform.serving import served_name

__all__ = ["check_number_of_trained_models"]

_UNDER_WAY = [status.value for status in Status if not status.is_final]


def check_number_of_trained_models(session: ReadSession, project_id: str, limit: int) -> None:
    """Raises Conflict where a project has no room for the model of another job; a limit of 0 is none.

    The models of a job, its result and its checkpoints, count as one, as long as one of them exists. Those of other
    projects' jobs that the project may use do not count.
    """
    if not limit:
        return
    under_way = _results_under_way(session, project_id)
    kept = _kept_results(session, project_id) - under_way
    if len(kept) + len(under_way) >= limit:
        raise Conflict(
            f"Your project has {len(kept)} trained models, and {len(under_way)} fine-tuning jobs that may make one. It may "
            f"have {limit} of both: delete a model and its checkpoints with DELETE /v1/models/{{name}} or "
            "`llma models delete`, or cancel a job.",
            code="too_many_trained_models",
        )


def _results_under_way(session: ReadSession, project_id: str) -> set[str]:
    """The names of the results of jobs that have not ended."""
    c = fine_tuning_jobs.c
    query = select(c.output_model).where(c.project_id == project_id, c.status.in_(_UNDER_WAY))
    return {row.output_model for row in session.rows(query)}


def _kept_results(session: ReadSession, project_id: str) -> set[str]:
    """The names of the results of which a model exists: the result itself, or one of its checkpoints."""
    c = models.c
    # As `file_locations.made_file`: the platform approves what it makes of files.
    made = (c.source_repository == SourceRepository.FINE_TUNING) & c.approved & c.deleted.is_(False)
    rows = session.rows(select(c.id, c.model_file_location).where(c.project_id == project_id, made))
    own = (row for row in rows if (file_of(row.model_file_location, project_id) or ("",))[0] == project_id)
    return {result_name(served_name(row.id)) for row in own}
