"""Promotions: an alias moves to the result of a job, if the result passes its gate.

The gate decides in the transaction in which the job succeeds, so once, whatever is repeated. A result that does not pass,
and an alias that can't be moved, leave the job as successful as any other.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.errors import Conflict, ModelNotFound, PermissionDenied, PlatformError
from llmariner.files.link_tokens import read_maker
from llmariner.fine_tuning.events import PROMOTION_DECIDED, add_job_event, add_message
from llmariner.fine_tuning.promotion import Measured, Promotion
from llmariner.fine_tuning.tables import fine_tuning_checkpoints, fine_tuning_jobs
from llmariner.limits.restrictions import caller_restriction
from llmariner.models.alias import AliasChange, Cause
from llmariner.models.aliases import change_alias
from llmariner.models.model import Model
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy.principal import Caller

__all__ = ["Promotions"]

_SCOPE = "api.model.write"


class Promotions:
    """The promotions of one installation. All methods block."""

    def __init__(self, database: Database, registry: ModelRegistry) -> None:
        self._database = database
        self._registry = registry

    def check(self, caller: Caller, promotion: Promotion) -> None:
        """Raises PermissionDenied for a caller that may not move the alias to a new model, Conflict for a model's name."""
        self._check_rights(caller)
        try:
            self._registry.get(promotion.alias, project_id=caller.key_owner.project_id)
        except ModelNotFound:
            return
        raise Conflict(
            f"'{promotion.alias}' is the id of a model: choose another alias.",
            param="promotion.alias",
            code="alias_taken",
        )

    def maker(self, job: Row[Any]) -> Caller | PlatformError:
        """Who created the job, with the right to move its alias now; or why they may not any more."""
        place = {"organization_id": job.organization_id, "project_id": job.project_id}
        claims = {"user": job.user_id, **({} if job.key_id is None else {"key": job.key_id})}
        try:
            found = read_maker(self._database, claims, **place, scope=_SCOPE)
        except PermissionDenied:
            return PermissionDenied("The user or the key that created the job may not move aliases any more.")
        try:
            self._check_rights(found)
        except PermissionDenied as refused:
            return refused.with_traceback(None)
        return found

    def decide(self, session: WriteSession, job: Row[Any], model: Model, maker: Caller | PlatformError) -> None:
        """Move the alias of a job that is locked and has succeeded with that model, if its gate lets it."""
        promotion = Promotion.from_json(json.loads(job.promotion))
        checkpoint = _checkpoint(session, job, model)
        measured = _measured(job, checkpoint)
        status, revision = "rejected", None
        if isinstance(maker, PlatformError):
            status, reason = "failed", maker.message
        elif checkpoint is None:
            status, reason = "failed", f"'{model.name}' is not the model that the job made."
        elif not (reason := promotion.failure(measured)):
            change = AliasChange(promotion.alias, Cause.PROMOTED, _why(promotion, measured), fine_tuning_job_id=job.id)
            try:
                revision = change_alias(session, maker, model.name, change).revision
                status = "promoted"
            except PlatformError as error:
                status, reason = "failed", error.message
        result: dict[str, Any] = {"status": status, "reason": reason or None, "alias_revision": revision}
        result |= {"validation_loss": measured.loss, "base_validation_loss": measured.base_loss}
        if promotion.grader is not None:
            result |= {"grade": measured.grade, "base_grade": measured.base_grade}
        same = fine_tuning_jobs.c.id == job.id
        session.run(update(fine_tuning_jobs).where(same).values(promotion_result=json.dumps(result)))
        add_job_event(session, PROMOTION_DECIDED, job, alias=promotion.alias, model=model.name, **result)
        if status == "promoted":
            add_message(session, job, f"The alias '{promotion.alias}' points at the model.")
        else:
            add_message(session, job, f"The alias '{promotion.alias}' was not moved: {reason}", "warn")

    def _check_rights(self, caller: Caller) -> None:
        if _SCOPE not in caller.scopes:
            raise PermissionDenied(
                f"A promotion moves an alias, for which the scope '{_SCOPE}' is needed.", param="promotion"
            )
        if caller_restriction(self._database, caller).models is not None:
            raise PermissionDenied(
                "This key or its project is bound to listed models, and the result of a job is none of them, so no alias "
                "is moved to it.",
                param="promotion",
                code="model_not_allowed",
            )


def _checkpoint(session: ReadSession, job: Row[Any], model: Model) -> Row[Any] | None:
    """The checkpoint of the job that the model was made of."""
    c = fine_tuning_checkpoints.c
    made = (c.job_id == job.id) & (c.file_id == model.model_file_location)
    return session.first(select(fine_tuning_checkpoints).where(made))


def _measured(job: Row[Any], checkpoint: Row[Any] | None) -> Measured:
    """What the job measured of a checkpoint. The base model's grade is with each that has a grade."""
    metrics = {} if checkpoint is None else json.loads(checkpoint.metrics)
    grades = metrics.get("full_valid_grade_mean"), metrics.get("base_valid_grade_mean")
    return Measured(metrics.get("full_valid_loss"), job.base_valid_loss, *grades)


def _why(promotion: Promotion, measured: Measured) -> str:
    """What speaks for a result that passed, for the history of the alias.

    Grades only where the gate compared them, so that both are there: a process may report either of them for any job.
    """
    if promotion.grader is not None:
        return f"mean grade {measured.grade:.4f}, of the base model {measured.base_grade:.4f}"
    if measured.loss is None:
        return ""
    base = "" if measured.base_loss is None else f", of the base model {measured.base_loss:.4f}"
    return f"validation loss {measured.loss:.4f}{base}"
