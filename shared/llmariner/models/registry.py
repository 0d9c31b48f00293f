"""The registry of models: create, find, change, delete; each change raises the revision and tells of itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, delete, func, select, tuple_, update

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest, ModelNotFound, PermissionDenied
from llmariner.models.ids_and_events import CREATED, DELETED, FAILED, LOADED, UPDATED, free_id, tell
from llmariner.models.model import (
    ActivationStatus,
    LoadingStatus,
    Model,
    ModelConfig,
    NewModel,
    SourceRepository,
    Task,
)
from llmariner.models.queries import Selection, after_model, named, ordered, visible
from llmariner.models.restrictions import (
    blocked,
    check_arguments,
    check_location,
    check_may_share,
    check_says_which,
    is_admin,
)
from llmariner.models.tables import model_wakes, models
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.serving import served_name
from llmariner.platform.serving.redaction import redact_paths
from llmariner.settings import ModelSettings
from llmariner.tenancy.principal import Caller

__all__ = ["Registry"]

_WAKES_KEPT = 50


class Registry:
    """The models of one installation. `project_id` in a call: whose eyes it is seen with; None sees all.

    `actor`: who asks and is told of in the audit log; None is the platform itself, which may everything and is not told of.
    PermissionDenied for what `models.restrictions` keeps for administrators. `locations`: where projects may load weights
    from, as in `ModelSettings`.
    """

    def __init__(self, database: Database, locations: Sequence[str] = ModelSettings.locations) -> None:
        self._database = database
        self._locations = locations

    def create(self, new: NewModel, *, actor: Caller | None = None) -> Model:
        """Register a model; its weights are fetched by whoever the event wakes. Conflict when the id is taken."""
        check_may_share(actor, new.project_id, "say 'is_project_scoped' to have one of your own project")
        if not is_admin(actor):
            check_location(new, self._locations)
            check_arguments(new.config.extra_args)
        with self._database.write() as session:
            # Taken before any look: who holds the revision's row is alone with the models until its transaction's end.
            revision = next_revision(session, "models")
            base = None if new.base_model_id is None else self._base(session, new)
            model_id, created = free_id(session, new)
            row = {**_new_row(new, base), "id": model_id, "created_at": created}
            session.add(models, **row, approved=is_admin(actor), revision=revision)
            tell(session, CREATED, model_id, new.project_id)
            source = {"source_repository": new.source_repository, "model_file_location": new.model_file_location}
            _log(session, actor, "created", new.id, new.project_id, {"data": source})
        return self.get(model_id)

    def get(self, model_id: str, *, project_id: str | None = None) -> Model:
        """One model. ModelNotFound for an unknown id, and for another project's."""
        with self._database.read() as session:
            return _one(session, model_id, project_id)

    def page(self, selection: Selection, *, after: str | None, limit: int) -> list[Model]:
        """Models in LLMariner's order: active first, base before fine-tuned, then by age and id."""
        with self._database.read() as session:
            query = ordered(selection).limit(limit)
            if after is not None:
                query = query.where(after_model(session, selection, after))
            return [_model(row) for row in session.rows(query)]

    def count(self, selection: Selection) -> int:
        """How many `page` would go through."""
        with self._database.read() as session:
            return int(session.value(select(func.count()).select_from(models).where(selection.condition)))

    def base_ids(self, selection: Selection) -> list[str]:
        """All base models of a selection, in the order of `page`."""
        query = ordered(selection).with_only_columns(models.c.id).where(models.c.base_model_id.is_(None))
        with self._database.read() as session:
            return [row.id for row in session.rows(query)]

    def configure(
        self,
        model_id: str,
        change: Callable[[ModelConfig], ModelConfig],
        *,
        project_id: str | None,
        actor: Caller | None = None,
        restated: bool = False,
        created: int | None = None,
    ) -> Model:
        """Change how it runs, from what it is at that moment; takes effect at its next wake.

        `created`: which of the models that may have had the id is meant; Conflict where another has it by now.
        `restated`: its engine arguments are said anew: an administrator who says `created`, too, approves it as it stands.
        """
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`: of two changes at once the second sees the first
            model = self._changeable(session, model_id, project_id, actor)
            if created not in (None, model.created_at):
                raise Conflict(
                    f"Model '{model.name}' was deleted and made anew, at {model.created_at}. Look at it again.",
                    param="created",
                )
            config = change(model.config)
            if not is_admin(actor) and config.extra_args != model.config.extra_args:
                check_arguments(config.extra_args)
            approves = restated and is_admin(actor) and created is not None
            changed = replace(model, config=config, approved=model.approved or approves)
            if restated and is_admin(actor):
                check_says_which(changed, self.blocked(changed))
            _change(session, model, config=json.dumps(config.shown()), approved=changed.approved)
            tell(session, UPDATED, model.id, model.project_id)
            told = {"changes_requested": {"config": config.shown()}}
            _log(session, actor, "updated", model.name, model.project_id, told)
        return self.get(model.id)

    def activate(
        self, model_id: str, status: ActivationStatus, *, project_id: str | None, actor: Caller | None = None
    ) -> Model:
        """Keep it awake, or let it sleep. ModelNotFound before its weights are here."""
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`
            model = self._changeable(session, model_id, project_id, actor)
            if not model.loaded:
                raise ModelNotFound(model_id)
            if status is ActivationStatus.ACTIVE and (why := self.blocked(model)):
                raise PermissionDenied(why)
            _change(session, model, activation_status=status)
            tell(session, UPDATED, model.id, model.project_id)
            told = {"changes_requested": {"activation_status": status}}
            _log(session, actor, "updated", model.name, model.project_id, told)
        return self.get(model.id)

    def delete(self, model_id: str, *, project_id: str | None, actor: Caller | None = None) -> None:
        """Remove it. InvalidRequest while it is active or the base of another."""
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`
            model = self._changeable(session, model_id, project_id, actor)
            if model.activation_status is ActivationStatus.ACTIVE:
                raise InvalidRequest(
                    f"Model '{model.name}' is active. Deactivate it first: POST /v1/models/{model.name}:deactivate.",
                    param="model",
                )
            tuned = session.first(
                select(models.c.id).where(models.c.base_model_id == model.id, models.c.deleted.is_(False))
            )
            if tuned is not None:
                raise InvalidRequest(
                    f"Model '{model.name}' is the base of '{served_name(tuned.id)}'; delete that first.", param="model"
                )
            _change(session, model, deleted=True)
            tell(session, DELETED, model.id, model.project_id, folder=model.folder)
            _log(session, actor, "deleted", model.name, model.project_id, {})

    def approve(self, model_id: str) -> None:
        """The platform itself vouches for its location and engine arguments as they stand."""
        with self._database.write() as session:
            _change(session, _one(session, model_id, None), approved=True)

    def blocked(self, model: Model) -> str:
        """Why its engine must not be started; empty where it may."""
        return blocked(model, self._locations)

    def loading(self, model_id: str, *, progress: float, message: str, created: int | None = None) -> None:
        """Note how far the fetching of weights is: progress from 0 to 1. What is loaded stays so.

        `created`: which of the models that had this id, one after another. ModelNotFound for one that is gone. The revision
        stays: whoever goes by it asks again for what is not loaded anyway.
        """
        with self._database.write() as session:
            model = _that(session, model_id, created)
            same = (models.c.id == model.id) & (models.c.created_at == model.created_at)
            session.run(
                update(models)
                .where(same, models.c.loading_status != LoadingStatus.SUCCEEDED)
                .values(loading_status=LoadingStatus.LOADING, loading_progress=progress, loading_message=message)
            )

    def loaded(self, model_id: str, *, folder: str, size_bytes: int, task: Task, created: int | None = None) -> None:
        """Note that the weights are here; `created` as in `loading`."""
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`
            model = _that(session, model_id, created)
            _change(
                session,
                model,
                loading_status=LoadingStatus.SUCCEEDED,
                loading_progress=1.0,
                loading_message="",
                loading_failure_reason="",
                folder=folder,
                size_bytes=size_bytes,
                task=task,
            )
            tell(session, LOADED, model.id, model.project_id)

    def failed(self, model_id: str, reason: str, *, created: int | None = None) -> None:
        """Note that the weights could not be had, and why; `created` as in `loading`. What is loaded stays so."""
        with self._database.write() as session:
            next_revision(session, "models")  # as in `create`
            model = _that(session, model_id, created)
            if model.loaded:
                return
            _change(session, model, loading_status=LoadingStatus.FAILED, loading_failure_reason=reason)
            tell(session, FAILED, model.id, model.project_id, reason=redact_paths(reason))

    def woke(self, model_id: str, seconds: float) -> None:
        """Note how long a wake took; the newest fifty are kept."""
        recent = (
            select(model_wakes.c.at)
            .where(model_wakes.c.model_id == model_id)
            .order_by(model_wakes.c.at.desc())
            .limit(_WAKES_KEPT)
        )
        with self._database.write() as session:
            session.add(model_wakes, model_id=model_id, at=time.time(), seconds=seconds)
            session.run(delete(model_wakes).where(model_wakes.c.model_id == model_id, model_wakes.c.at.not_in(recent)))

    def wakes(self, model_id: str) -> list[float]:
        """The durations of the newest wakes in seconds, shortest first."""
        query = select(model_wakes.c.seconds).where(model_wakes.c.model_id == model_id)
        with self._database.read() as session:
            return sorted(row.seconds for row in session.rows(query))

    def several(self, model_ids: Collection[str]) -> dict[str, Model]:
        """Those of the models that there are, by id."""
        query = select(models).where(models.c.id.in_(sorted(model_ids)), models.c.deleted.is_(False))
        with self._database.read() as session:
            return {row.id: _model(row) for row in session.rows(query)}

    def tuned(self, bases: Collection[tuple[str, str | None]]) -> dict[tuple[str, str | None], list[Model]]:
        """The models whose base each is and whose project is the one beside it, by their ids."""
        if not bases:
            return {}
        wanted = [(base, project or "") for base, project in bases]
        place = tuple_(models.c.base_model_id, func.coalesce(models.c.project_id, ""))
        query = select(models).where(place.in_(wanted), models.c.deleted.is_(False)).order_by(models.c.id)
        found: dict[tuple[str, str | None], list[Model]] = {}
        with self._database.read() as session:
            for model in map(_model, session.rows(query)):
                found.setdefault((model.base_model_id or "", model.project_id), []).append(model)
        return found

    def adopted(self) -> dict[str, str]:
        """The models that somebody else made an InferenceService for: id → its name."""
        query = select(models.c.id, models.c.model_file_location).where(
            models.c.source_repository == SourceRepository.KUBERNETES, models.c.deleted.is_(False)
        )
        with self._database.read() as session:
            return {row.id: row.model_file_location for row in session.rows(query)}

    def projects(self) -> set[str]:
        """The projects that have a model of their own."""
        query = select(models.c.project_id).where(models.c.project_id.is_not(None), models.c.deleted.is_(False))
        with self._database.read() as session:
            return {row.project_id for row in session.rows(query.distinct())}

    def names_of_its_own(self, project_id: str) -> frozenset[str]:
        """Names by which a project means models of its own that others mean other models by."""
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

    def _changeable(self, session: ReadSession, model_id: str, project_id: str | None, actor: Caller | None) -> Model:
        model = _one(session, model_id, project_id)
        check_may_share(actor, model.project_id, "ask who runs this platform")
        return model

    def _base(self, session: ReadSession, new: NewModel) -> Model:
        base = _one(session, new.base_model_id or "", new.project_id)
        if base.base_model_id is not None:
            raise InvalidRequest(f"'{base.name}' is fine-tuned itself; name its base model.", param="base_model_id")
        return base


def _one(session: ReadSession, model_id: str, project_id: str | None) -> Model:
    """By its id in the registry; for a project by its name, its own before one that all share."""
    query = select(models).where(named(model_id, project_id), visible(project_id))
    row = session.first(query.order_by(models.c.project_id.is_(None)).limit(1))
    if row is None:
        raise ModelNotFound(served_name(model_id))
    return _model(row)


def _that(session: ReadSession, model_id: str, created: int | None) -> Model:
    model = _one(session, model_id, None)
    if created is not None and model.created_at != created:
        raise ModelNotFound(model.name)  # another has its id by now
    return model


def _change(session: WriteSession, model: Model, **values: Any) -> None:
    revision = next_revision(session, "models")
    session.run(update(models).where(models.c.id == model.id).values(revision=revision, **values))


def _new_row(new: NewModel, base: Model | None) -> dict[str, Any]:
    return {
        "project_id": new.project_id,
        "owned_by": "system" if base is None else "user",
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
        "config": json.dumps(new.config.shown()),
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
        config=ModelConfig.read(json.loads(row.config)),
    )
    return Model(**values)


def _log(
    session: WriteSession, actor: Caller | None, what: str, model_id: str, project_id: str | None, told: dict[str, Any]
) -> None:
    if actor is not None:
        place: Any = {"organization_id": actor.organization_id, "project_id": project_id}
        log.append_entry(session, actor, f"model.{what}", {"id": model_id, **told}, **place)
