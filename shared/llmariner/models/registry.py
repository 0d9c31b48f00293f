"""The model registry: create, read, update and delete. Each change raises the revision and adds an event."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, delete, func, select, tuple_, update

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest, ModelNotFound, PermissionDenied
from llmariner.models.copies.tables import model_copies
from llmariner.models.ids_and_events import (
    CREATED,
    DELETED,
    FAILED,
    LOADED,
    LOADING_REQUESTED,
    UPDATED,
    add_model_event,
    allocate_id,
)
from llmariner.models.model import (
    ActivationStatus,
    LoadingStatus,
    Model,
    ModelConfig,
    NewModel,
    SourceRepository,
    Task,
    qualified_id,
)
from llmariner.models.queries import ModelSelector, after_cursor, matches_name, ordered_query, visible_to
from llmariner.models.restrictions import (
    blocked_reason,
    check_arguments,
    check_location,
    check_may_change_shared,
    check_names_created,
    is_model_admin,
)
from llmariner.models.tables import model_aliases, model_wakes, models
from llmariner.models.traits import ModelTraits
from llmariner.models.weights import LoadingProgress
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.events import outbox
from llmariner.platform.serving import served_name
from llmariner.platform.serving.redaction import redact_paths
from llmariner.settings import ModelSettings
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import projects

__all__ = ["ModelRegistry", "load_model"]

_MAX_WAKES = 50
_UNFINISHED = frozenset({LoadingStatus.REQUESTED, LoadingStatus.LOADING})


class ModelRegistry:
    """The models of one installation.

    `project_id` in a call limits it to what that project sees; None sees all models. `actor` is the principal that the audit
    log names; None is the platform itself, which has every permission and gets no audit entry. PermissionDenied for what
    `models.restrictions` reserves to administrators. `locations`: where projects may load weights from (`ModelSettings`).
    """

    def __init__(self, database: Database, locations: Sequence[str] = ModelSettings.locations) -> None:
        self._database = database
        self._locations = locations

    def create(
        self,
        new: NewModel,
        *,
        actor: Caller | None = None,
        maker: Caller | None = None,
        fine_tuning_job_id: str | None = None,
        check: Callable[[WriteSession], None] = lambda _session: None,
    ) -> Model:
        """Register a model; the consumer of its event fetches the weights. Conflict when the id is taken.

        `maker`: whom the audit log names for a model that the platform registers for them: the result of a job. `check`:
        raises in the transaction, which has the registry's lock, where the model must not be made.
        """
        check_may_change_shared(actor, new.project_id, "say 'is_project_scoped' to have one of your own project")
        if not is_model_admin(actor):
            check_location(new, self._locations)
            check_arguments(new.config.extra_args)
        with self._database.write() as session:
            # The lock on the revision's row, taken before any read, serializes writers until their transactions end.
            revision = next_revision(session, "models")
            base = None if new.base_model_id is None else self._base(session, new)
            model_id, created = allocate_id(session, new)
            check(session)
            row = {**_new_row(new, base), "id": model_id, "created_at": created}
            session.add(models, **row, approved=is_model_admin(actor), revision=revision)
            add_model_event(session, CREATED, model_id, new.project_id, fine_tuning_job_id=fine_tuning_job_id)
            source = {"source_repository": new.source_repository, "model_file_location": new.model_file_location}
            source |= {} if fine_tuning_job_id is None else {"fine_tuning_job_id": fine_tuning_job_id}
            _audit(session, actor or maker, "created", new.id, new.project_id, {"data": source})
        return self.get(model_id)

    def get(self, model_id: str, *, project_id: str | None = None) -> Model:
        """One model. ModelNotFound for an unknown id and for the id of another project's model."""
        with self._database.read() as session:
            return load_model(session, model_id, project_id)

    def page(self, selector: ModelSelector, *, after: str | None, limit: int) -> list[Model]:
        """Models in LLMariner's order: active first, base before fine-tuned, then by age and id."""
        with self._database.read() as session:
            query = ordered_query(selector).limit(limit)
            if after is not None:
                query = query.where(after_cursor(session, selector, after))
            return [_model(row) for row in session.rows(query)]

    def count(self, selector: ModelSelector) -> int:
        """The number of models on all pages."""
        with self._database.read() as session:
            return int(session.value(select(func.count()).select_from(models).where(selector.condition)))

    def base_ids(self, selector: ModelSelector) -> list[str]:
        """The ids of all selected base models, in the order of `page`."""
        query = ordered_query(selector).with_only_columns(models.c.id).where(models.c.base_model_id.is_(None))
        with self._database.read() as session:
            return [row.id for row in session.rows(query)]

    def configure(
        self,
        model_id: str,
        change: Callable[[ModelConfig], ModelConfig],
        *,
        project_id: str | None,
        actor: Caller | None = None,
        sets_extra_args: bool = False,
        created: int | None = None,
    ) -> Model:
        """Apply `change` to the current configuration; it takes effect at the next wake.

        `created` identifies the model among those that had this id one after another; Conflict where it is not the current
        one. `sets_extra_args`: the request sets the engine arguments. Where an administrator does that and names `created`,
        the model is approved with its location.
        """
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`: the second of two concurrent changes sees the first
            model = self._get_changeable(session, model_id, project_id, actor)
            if created not in (None, model.created_at):
                raise Conflict(
                    f"Model '{model.name}' was deleted and created again, at {model.created_at}. Look at it again.",
                    param="created",
                )
            config = change(model.config)
            if not is_model_admin(actor) and config.extra_args != model.config.extra_args:
                check_arguments(config.extra_args)
            approves = sets_extra_args and is_model_admin(actor) and created is not None
            changed = replace(model, config=config, approved=model.approved or approves)
            if sets_extra_args and is_model_admin(actor):
                check_names_created(changed, self.blocked_reason(changed))
            _update(session, model, config=json.dumps(config.to_api()), approved=changed.approved)
            add_model_event(session, UPDATED, model.id, model.project_id)
            details = {"changes_requested": {"config": config.to_api()}}
            _audit(session, actor, "updated", model.name, model.project_id, details)
        return self.get(model.id)

    def activate(
        self, model_id: str, status: ActivationStatus, *, project_id: str | None, actor: Caller | None = None
    ) -> Model:
        """Set whether a model is always awake. ModelNotFound before its weights are fetched."""
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`
            model = self._get_changeable(session, model_id, project_id, actor)
            if not model.loaded:
                raise ModelNotFound(model_id)
            if status is ActivationStatus.ACTIVE and (why := self.blocked_reason(model)):
                raise PermissionDenied(why)
            _update(session, model, activation_status=status)
            add_model_event(session, UPDATED, model.id, model.project_id)
            details = {"changes_requested": {"activation_status": status}}
            _audit(session, actor, "updated", model.name, model.project_id, details)
        return self.get(model.id)

    def delete(
        self, model_id: str, *, project_id: str | None, actor: Caller | None = None, even_if_aliased: bool = False
    ) -> None:
        """Delete a model. InvalidRequest while it is active or the base of another, or an alias of its project names it.

        `even_if_aliased`: for a project that loses the right to a model. Its alias then points at nothing.
        """
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`
            model = self._get_changeable(session, model_id, project_id, actor)
            if model.activation_status is ActivationStatus.ACTIVE:
                raise InvalidRequest(
                    f"Model '{model.name}' is active. Deactivate it first: POST /v1/models/{model.name}:deactivate.",
                    param="model",
                )
            adapter = session.first(
                select(models.c.id).where(models.c.base_model_id == model.id, models.c.deleted.is_(False))
            )
            if adapter is not None:
                raise InvalidRequest(
                    f"Model '{model.name}' is the base of '{served_name(adapter.id)}'; delete that first.",
                    param="model",
                )
            if not even_if_aliased:
                _check_no_alias(session, model)
            _update(session, model, deleted=True)
            add_model_event(session, DELETED, model.id, model.project_id, folder=model.folder)
            _audit(session, actor, "deleted", model.name, model.project_id, {})

    def retry(self, model_id: str, *, project_id: str | None, actor: Caller | None = None) -> Model:
        """Have the weights of a model fetched that failed; what was fetched is used. Conflict in any other state."""
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`: of two at once, the second finds it requested
            model = self._get_changeable(session, model_id, project_id, actor)
            if model.loading_status is not LoadingStatus.FAILED:
                state = "loaded" if model.loaded else "loading: GET /v1/models/{id} shows how far it is"
                raise Conflict(
                    f"Model '{model.name}' did not fail, so there is nothing to retry. It is {state}.", param="id"
                )
            blank = {"loading_failure_reason": "", "loading_message": "", "loading_progress": 0.0}
            _update(session, model, loading_status=LoadingStatus.REQUESTED, **blank)
            # The source may have other files by now.
            same = (model_copies.c.model_id == model.id) & (model_copies.c.model_created_at == model.created_at)
            session.run(update(model_copies).where(same).values(revision=None, progressed_at=session.now()))
            add_model_event(session, LOADING_REQUESTED, model.id, model.project_id)
            _audit(session, actor, "loading_retried", model.name, model.project_id, {})
        return self.get(model.id)

    def approve(self, model_id: str) -> None:
        """Approve the current location and engine arguments, for the platform itself."""
        with self._database.write() as session:
            _update(session, load_model(session, model_id, None), approved=True)

    def blocked_reason(self, model: Model) -> str:
        """Why the engine of a model must not start; empty where it may."""
        return blocked_reason(model, self._locations)

    def update_progress(self, model_id: str, progress: LoadingProgress, *, created: int | None = None) -> None:
        """Record the progress of fetching weights; no effect on a model that is loaded.

        `created` identifies the model among those that had this id one after another; ModelNotFound for one that is gone.
        The revision does not change: readers of revisions read models that are not loaded again anyway.
        """
        with self._database.write() as session:
            model = _get_created_at(session, model_id, created)
            same = (models.c.id == model.id) & (models.c.created_at == model.created_at)
            session.run(
                update(models)
                .where(same, models.c.loading_status != LoadingStatus.SUCCEEDED)
                .values(
                    loading_status=LoadingStatus.LOADING,
                    loading_progress=progress.fraction,
                    loading_message=progress.message,
                    loaded_bytes=progress.done_bytes,
                    total_bytes=progress.total_bytes,
                    loading_seconds_left=progress.estimate_seconds,
                )
            )

    def mark_loaded(
        self,
        model_id: str,
        *,
        folder: str,
        size_bytes: int,
        task: Task,
        traits: ModelTraits = ModelTraits(),  # noqa: B008
        created: int | None = None,
    ) -> None:
        """Record that the weights are fetched; `created` as in `update_progress`."""
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`
            model = _get_created_at(session, model_id, created)
            _update(
                session,
                model,
                loading_status=LoadingStatus.SUCCEEDED,
                loading_progress=1.0,
                loading_message="",
                loading_failure_reason="",
                folder=folder,
                size_bytes=size_bytes,
                task=task,
                loading_seconds_left=None,
                traits=traits.to_json(),
            )
            add_model_event(session, LOADED, model.id, model.project_id)

    def mark_failed(self, model_id: str, reason: str, *, created: int | None = None) -> None:
        """Record why the weights could not be fetched; no effect on a loaded model. `created` as in `update_progress`."""
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`
            model = _get_created_at(session, model_id, created)
            if model.loaded:
                return
            _update(
                session,
                model,
                loading_status=LoadingStatus.FAILED,
                loading_failure_reason=reason,
                loading_seconds_left=None,
            )
            add_model_event(session, FAILED, model.id, model.project_id, reason=redact_paths(reason))

    def request_loading(self, model_id: str, created: int, *, after_event: str = "") -> None:
        """Have the loading of a model continue, which nobody works on; no effect on one that is gone, loaded or failed.

        `after_event`: the id of the event that was handled; one that is delivered twice asks once.
        """
        with self._database.write() as session:
            if after_event and not outbox.mark_consumed(session, "model_load_continuation", after_event):
                return
            row = session.first(select(models).where(models.c.id == model_id, models.c.created_at == created))
            if row is not None and not row.deleted and row.loading_status in _UNFINISHED:
                add_model_event(session, LOADING_REQUESTED, model_id, row.project_id)

    def record_wake(self, model_id: str, seconds: float) -> None:
        """Record the duration of a wake in seconds; the latest fifty are kept."""
        recent = (
            select(model_wakes.c.at)
            .where(model_wakes.c.model_id == model_id)
            .order_by(model_wakes.c.at.desc())
            .limit(_MAX_WAKES)
        )
        with self._database.write() as session:
            session.add(model_wakes, model_id=model_id, at=time.time(), seconds=seconds)
            session.run(delete(model_wakes).where(model_wakes.c.model_id == model_id, model_wakes.c.at.not_in(recent)))

    def wake_durations(self, model_id: str) -> list[float]:
        """The durations of the latest wakes in seconds, in ascending order."""
        query = select(model_wakes.c.seconds).where(model_wakes.c.model_id == model_id)
        with self._database.read() as session:
            return sorted(row.seconds for row in session.rows(query))

    def get_many(self, model_ids: Collection[str]) -> dict[str, Model]:
        """The models with these ids, by id; unknown ids are left out."""
        query = select(models).where(models.c.id.in_(sorted(model_ids)), models.c.deleted.is_(False))
        with self._database.read() as session:
            return {row.id: _model(row) for row in session.rows(query)}

    def named(self, names: Collection[str], project_id: str) -> dict[str, Model]:
        """The models that a project refers to by these names; unknown names are left out."""
        ids = sorted({*names, *(qualified_id(name, project_id) for name in names)})
        query = select(models).where(models.c.id.in_(ids), visible_to(project_id))
        with self._database.read() as session:
            # A model of its own, whose id is qualified, comes after a shared one of its name.
            rows = session.rows(query.order_by(models.c.project_id.is_not(None)))
        return {model.name: model for model in map(_model, rows)}

    def adapters_of(self, bases: Collection[tuple[str, str | None]]) -> dict[tuple[str, str | None], list[Model]]:
        """The adapters of each pair (base model id, project id), ordered by id; pairs without adapters are left out."""
        if not bases:
            return {}
        wanted = [(base, project or "") for base, project in bases]
        pair = tuple_(models.c.base_model_id, func.coalesce(models.c.project_id, ""))
        query = select(models).where(pair.in_(wanted), models.c.deleted.is_(False)).order_by(models.c.id)
        found: dict[tuple[str, str | None], list[Model]] = {}
        with self._database.read() as session:
            for model in map(_model, session.rows(query)):
                found.setdefault((model.base_model_id or "", model.project_id), []).append(model)
        return found

    def imported_services(self) -> dict[str, str]:
        """Models of InferenceServices that the platform did not create: id → name of the InferenceService."""
        query = select(models.c.id, models.c.model_file_location).where(
            models.c.source_repository == SourceRepository.KUBERNETES, models.c.deleted.is_(False)
        )
        with self._database.read() as session:
            return {row.id: row.model_file_location for row in session.rows(query)}

    def projects_with_models(self) -> set[str]:
        """The ids of projects that have models of their own."""
        query = select(models.c.project_id).where(models.c.project_id.is_not(None), models.c.deleted.is_(False))
        with self._database.read() as session:
            return {row.project_id for row in session.rows(query.distinct())}

    def organization_of(self, project_id: str) -> str | None:
        """The organization of a project."""
        with self._database.read() as session:
            found = session.value(select(projects.c.organization_id).where(projects.c.id == project_id))
        return None if found is None else str(found)

    def qualified_names(self, project_id: str) -> frozenset[str]:
        """The names of a project's models whose ids are qualified: other projects use these names for other models."""
        query = select(models.c.id).where(
            models.c.project_id == project_id, models.c.deleted.is_(False), models.c.id.contains("@", autoescape=True)
        )
        with self._database.read() as session:
            return frozenset(served_name(row.id) for row in session.rows(query))

    def changed_since(self, revision: int) -> tuple[int, list[str]]:
        """The newest revision, and the ids of models changed or deleted after `revision`."""
        with self._database.read() as session:
            rows = session.rows(select(models.c.id, models.c.revision).where(models.c.revision > revision))
        return max([revision, *(row.revision for row in rows)]), [row.id for row in rows]

    def _get_changeable(
        self, session: ReadSession, model_id: str, project_id: str | None, actor: Caller | None
    ) -> Model:
        model = load_model(session, model_id, project_id)
        check_may_change_shared(actor, model.project_id, "ask who runs this platform")
        return model

    def _base(self, session: ReadSession, new: NewModel) -> Model:
        base = load_model(session, new.base_model_id or "", new.project_id)
        if base.base_model_id is not None:
            raise InvalidRequest(f"'{base.name}' is fine-tuned itself; name its base model.", param="base_model_id")
        return base


def load_model(session: ReadSession, model_id: str, project_id: str | None) -> Model:
    """The model with that registry id; within a project the one with that name, its own before a shared one."""
    query = select(models).where(matches_name(model_id, project_id), visible_to(project_id))
    row = session.first(query.order_by(models.c.project_id.is_(None)).limit(1))
    if row is None:
        raise ModelNotFound(served_name(model_id))
    return _model(row)


def _check_no_alias(session: ReadSession, model: Model) -> None:
    """InvalidRequest for a model that an alias of its project names; those of others never hold up a shared model."""
    c = model_aliases.c
    named = select(c.name).where(c.project_id == model.project_id, c.model == model.name).order_by(c.name)
    if (alias := session.value(named.limit(1))) is not None:
        raise InvalidRequest(
            f"The alias '{alias}' points at model '{model.name}'. Move it first: PATCH /v1/model_aliases/{alias}.",
            param="model",
        )


def _get_created_at(session: ReadSession, model_id: str, created: int | None) -> Model:
    model = load_model(session, model_id, None)
    if created is not None and model.created_at != created:
        raise ModelNotFound(model.name)  # another model has its id now
    return model


def _update(session: WriteSession, model: Model, **values: Any) -> None:
    revision = next_revision(session, "models")
    session.run(update(models).where(models.c.id == model.id).values(revision=revision, **values))


def _new_row(new: NewModel, base: Model | None) -> dict[str, Any]:
    return {
        "project_id": new.project_id,
        "owned_by": "system" if base is None and new.source_repository is not SourceRepository.FINE_TUNING else "user",
        "source_repository": new.source_repository,
        "model_file_location": new.model_file_location,
        "format": "HUGGING_FACE",
        "task": (new.task or Task.GENERATE) if base is None else base.task,
        "base_model_id": None if base is None else base.id,
        "loading_status": LoadingStatus.REQUESTED,
        "loading_progress": 0.0,
        "loading_message": "",
        "loading_failure_reason": "",
        "activation_status": ActivationStatus.INACTIVE,
        "folder": "",
        "size_bytes": 0,
        "config": json.dumps(new.config.to_api()),
        "credential_id": new.credential_id,
        "deleted": False,
    }


def _model(row: Row[Any]) -> Model:
    values = dict(row._mapping)
    del values["deleted"]
    values.update(
        source_repository=SourceRepository(row.source_repository),
        task=Task(row.task),
        loading_status=LoadingStatus(row.loading_status),
        activation_status=ActivationStatus(row.activation_status),
        config=ModelConfig.from_api(json.loads(row.config)),
        traits=ModelTraits.from_json(row.traits),
    )
    return Model(**values)


def _audit(
    session: WriteSession,
    actor: Caller | None,
    what: str,
    model_id: str,
    project_id: str | None,
    details: dict[str, Any],
) -> None:
    if actor is not None:
        scope: Any = {"organization_id": actor.organization_id, "project_id": project_id}
        log.append_entry(session, actor, f"model.{what}", {"id": model_id, **details}, **scope)
