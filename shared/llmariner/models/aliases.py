"""Aliases: names by which the callers of a project refer to a model that changes, and where they pointed.

A change takes the lock of the model registry, so that no model and no alias get one name at once. Gateways learn of it as of
a changed key. An alias points at a model's name, which means the same model in the project until that model is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, delete, func, select, update

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.gateway.responses.limit_errors import model_not_allowed
from llmariner.limits.restrictions import Restriction, caller_restriction
from llmariner.models.alias import Alias, AliasChange, AliasRevision, Cause, check_alias_name
from llmariner.models.alias_targets import alias_targets
from llmariner.models.model import Model
from llmariner.models.queries import matches_name, visible_to
from llmariner.models.registry import load_model
from llmariner.models.tables import model_alias_revisions, model_aliases, models
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.events import outbox
from llmariner.tenancy.principal import Caller

__all__ = ["ModelAliases", "change_alias"]

CREATED = "ai.llmariner.model_alias.created.v1"
MOVED = "ai.llmariner.model_alias.moved.v1"
DELETED = "ai.llmariner.model_alias.deleted.v1"
_MAX_ALIASES = 100
"""Of a project. Each gateway holds them with each key."""
_MAX_DELETED = 100
"""Deleted ones whose history is kept; gateways learn of a deletion by its row."""
_MAX_REVISIONS = 1000


class ModelAliases:
    """The aliases of one installation. `project_id` limits a call to that project; others' aliases are NotFound.

    All methods block. Those that change an alias raise Conflict where `expected_revision` is not its last one,
    ModelNotFound, and PermissionDenied for a model that the caller may not use.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, caller: Caller, name: str, model: str, reason: str) -> Alias:
        """Create an alias. Conflict for a name that is taken, by an alias or by a model."""
        check_alias_name(name)
        return self._change(caller, AliasChange(name, Cause.CREATED, reason), lambda _session, _row: model)

    def move(
        self, caller: Caller, name: str, model: str, reason: str, *, expected_revision: int | None = None
    ) -> Alias:
        """Let an alias point at another model. It stays as it is if it points there already."""
        change = AliasChange(name, Cause.MOVED, reason, expected_revision)
        return self._change(caller, change, lambda _session, _row: model)

    def roll_back(
        self, caller: Caller, name: str, revision: int | None, reason: str, *, expected_revision: int | None = None
    ) -> Alias:
        """Let an alias point where it pointed before its last change, or at one of its revisions."""

        def target(session: ReadSession, row: Row[Any] | None) -> str:
            return _earlier_model(session, _existing(row, name), revision)

        return self._change(caller, AliasChange(name, Cause.ROLLED_BACK, reason, expected_revision), target)

    def delete(self, caller: Caller, name: str) -> None:
        """Delete an alias. Its history is kept for a while, and continues if it is created again."""
        owner = caller.key_owner

        def work(session: WriteSession) -> None:
            registry_revision = next_revision(session, "models")
            row = _existing(_find(session, owner.project_id, name), name)
            _record(session, caller, row, None, AliasChange(name, Cause.DELETED, ""), registry_revision)

        self._database.transact(work)

    def get(self, project_id: str, name: str) -> Alias:
        """One alias. NotFound."""
        with self._database.read() as session:
            return _alias(_existing(_find(session, project_id, name), name))

    def page(self, project_id: str, *, after: str | None, limit: int) -> tuple[list[Alias], bool]:
        """Aliases by name after one of them, deleted or not, and whether there are more."""
        c = model_aliases.c
        query = select(model_aliases).where(c.project_id == project_id, c.model.is_not(None))
        if after is not None:
            query = query.where(c.name > after)
        with self._database.read() as session:
            rows = session.rows(query.order_by(c.name).limit(limit + 1))
        return [_alias(row) for row in rows[:limit]], len(rows) > limit

    def is_known(self, project_id: str, name: str) -> bool:
        """Whether the project has that alias, or had it a while ago."""
        with self._database.read() as session:
            return _find(session, project_id, name) is not None

    def revisions(
        self, project_id: str, name: str, *, after: int | None, limit: int
    ) -> tuple[list[AliasRevision], bool]:
        """Where an alias pointed, the last revision first, before the revision `after`; also of a deleted one. NotFound."""
        c = model_alias_revisions.c
        query = select(model_alias_revisions).where(c.project_id == project_id, c.name == name)
        if after is not None:
            query = query.where(c.number < after)
        with self._database.read() as session:
            if _find(session, project_id, name) is None:
                raise _not_found(name)
            rows = session.rows(query.order_by(c.number.desc()).limit(limit + 1))
        return [_revision(row) for row in rows[:limit]], len(rows) > limit

    def targets(self, project_id: str) -> dict[str, str]:
        """The name of the model that each alias of a project points at."""
        with self._database.read() as session:
            return alias_targets(session, project_id)

    def projects_changed_since(self, revision: int) -> list[str]:
        """The projects whose aliases changed after a revision of the registry."""
        c = model_aliases.c
        with self._database.read() as session:
            return [
                row.project_id for row in session.rows(select(c.project_id).where(c.revision > revision).distinct())
            ]

    def _change(
        self, caller: Caller, change: AliasChange, target: Callable[[ReadSession, Row[Any] | None], str]
    ) -> Alias:
        owner, restriction = caller.key_owner, caller_restriction(self._database, caller)

        def work(session: WriteSession) -> Alias:
            registry_revision = next_revision(session, "models")
            row = _find(session, owner.project_id, change.name)
            model = _checked_model(session, owner.project_id, target(session, row), restriction)
            return _apply(session, caller, row, model, change, registry_revision)

        return self._database.transact(work)


def change_alias(session: WriteSession, maker: Caller, model: str, change: AliasChange) -> Alias:
    """Let an alias point at a model in the caller's transaction, which is nearly at its end; creates it where it is absent.

    Raises as the methods of `ModelAliases`, and has then changed nothing.
    """
    registry_revision = next_revision(session, "models")
    project_id = maker.key_owner.project_id
    row = _find(session, project_id, change.name)
    target = _checked_model(session, project_id, model, Restriction())
    return _apply(session, maker, row, target, change, registry_revision)


def _apply(
    session: WriteSession,
    caller: Caller,
    row: Row[Any] | None,
    model: Model,
    change: AliasChange,
    registry_revision: int,
) -> Alias:
    exists = row is not None and row.model is not None
    if change.cause is Cause.CREATED and exists:
        raise Conflict(
            f"The alias '{change.name}' exists already. Move it: PATCH /v1/model_aliases/{change.name}.", param="alias"
        )
    if change.cause in (Cause.MOVED, Cause.ROLLED_BACK):
        row = _existing(row, change.name)
    if exists and row is not None:
        _check_expected(row, change.expected_revision)
        if row.model == model.name:
            return _alias(row)
        _check_same_task(session, row, model)
    else:
        row = _create(session, caller, row, change.name)
    return _record(session, caller, row, model.name, change, registry_revision)


def _create(session: WriteSession, caller: Caller, deleted: Row[Any] | None, name: str) -> Row[Any]:
    """The row of a new alias, which points at nothing yet."""
    owner = caller.key_owner
    taken = select(models.c.id).where(matches_name(name, owner.project_id), visible_to(owner.project_id))
    if session.first(taken) is not None:
        raise Conflict(f"'{name}' is the id of a model: choose another alias.", param="alias")
    c = model_aliases.c
    own = select(func.count()).select_from(model_aliases).where(c.project_id == owner.project_id)
    if session.value(own.where(c.model.is_not(None))) >= _MAX_ALIASES:
        raise Conflict(
            f"Your project has {_MAX_ALIASES} aliases, as many as it may have: delete one.", code="too_many_aliases"
        )
    if deleted is None:
        place = {"project_id": owner.project_id, "organization_id": owner.organization_id}
        now = time.time()
        session.add(model_aliases, **place, name=name, number=0, created_at=int(now), updated_at=now, revision=0)
    created = _find(session, owner.project_id, name)
    assert created is not None
    return created


def _record(
    session: WriteSession,
    caller: Caller,
    row: Row[Any],
    model: str | None,
    change: AliasChange,
    registry_revision: int,
) -> Alias:
    """Store a change with its revision, its event and its entry of the audit log, and drop what is too old."""
    same = (model_aliases.c.project_id == row.project_id) & (model_aliases.c.name == row.name)
    number, now = row.number + 1, time.time()
    created = {"created_at": int(now)} if row.model is None else {}
    changed = {"model": model, "number": number, "updated_at": now, "revision": registry_revision, **created}
    session.run(update(model_aliases).where(same).values(**changed))
    place = {"project_id": row.project_id, "organization_id": row.organization_id}
    session.add(
        model_alias_revisions,
        **place,
        name=row.name,
        number=number,
        model=model,
        previous_model=row.model,
        at=now,
        cause=change.cause.value,
        reason=change.reason,
        user_id=caller.user_id,
        key_id=caller.key_id,
        fine_tuning_job_id=change.fine_tuning_job_id,
    )
    _drop_old(session, row, number)
    event = DELETED if model is None else CREATED if row.model is None else MOVED
    what: dict[str, Any] = {
        "model": model,
        "previous_model": row.model,
        "revision": number,
        "cause": change.cause.value,
    }
    what |= {"reason": change.reason, "fine_tuning_job_id": change.fine_tuning_job_id}
    outbox.add(session, event, f"model_aliases/{row.name}", {"id": row.name, **what, **place})
    type_ = f"model_alias.{event.split('.')[-2]}"
    log.append_entry(session, caller, type_, {"id": row.name, "data": what}, **place)
    found = _find(session, row.project_id, row.name)
    assert found is not None
    return _alias(found)


def _drop_old(session: WriteSession, row: Row[Any], number: int) -> None:
    c, r = model_aliases.c, model_alias_revisions.c
    old = (r.project_id == row.project_id) & (r.name == row.name) & (r.number <= number - _MAX_REVISIONS)
    session.run(delete(model_alias_revisions).where(old))
    deleted = select(c.name).where(c.project_id == row.project_id, c.model.is_(None), c.name != row.name)
    kept = deleted.order_by(c.revision.desc()).limit(_MAX_DELETED)
    names = [each.name for each in session.rows(deleted.where(c.name.not_in(kept)))]
    if names:
        session.run(delete(model_aliases).where(c.project_id == row.project_id, c.name.in_(names)))


def _checked_model(session: ReadSession, project_id: str, name: str, restriction: Restriction) -> Model:
    """The model to point at. Raises ModelNotFound, InvalidRequest and PermissionDenied."""
    if name in alias_targets(session, project_id):
        raise InvalidRequest(f"'{name}' is an alias itself: name the model that it points at.", param="model")
    model = load_model(session, name, project_id)
    if not restriction.allows(model.name, model.base_name):
        raise model_not_allowed(model.name)
    if not model.loaded:
        raise InvalidRequest(
            f"Model '{model.name}' is not loaded yet, so nothing would answer: wait until it is.",
            param="model",
            code="model_not_loaded",
        )
    return model


def _check_same_task(session: ReadSession, row: Row[Any], model: Model) -> None:
    """InvalidRequest where callers of the alias would find a model that answers none of their requests."""
    query = select(models.c.task).where(matches_name(row.model, row.project_id), visible_to(row.project_id))
    task = session.value(query.order_by(models.c.project_id.is_(None)).limit(1))
    if task is not None and task != model.task:
        raise InvalidRequest(
            f"The alias '{row.name}' points at a model for the task '{task}', and '{model.name}' is one for "
            f"'{model.task.value}': create another alias.",
            param="model",
        )


def _check_expected(row: Row[Any], expected: int | None) -> None:
    if expected is not None and expected != row.number:
        raise Conflict(
            f"The alias '{row.name}' has changed: it points at '{row.model}' by revision {row.number}. Look at it again.",
            param="expected_revision",
            code="alias_changed",
        )


def _earlier_model(session: ReadSession, row: Row[Any], revision: int | None) -> str:
    c = model_alias_revisions.c
    wanted = row.number if revision is None else revision
    column = c.previous_model if revision is None else c.model
    own = (c.project_id == row.project_id) & (c.name == row.name) & (c.number == wanted)
    model = session.value(select(column).where(own))
    if model is None:
        which = "no model before this one" if revision is None else f"no model by revision {revision}"
        raise InvalidRequest(
            f"The alias '{row.name}' pointed at {which}. See GET /v1/model_aliases/{row.name}/revisions.",
            param="revision",
            code="no_such_revision",
        )
    return str(model)


def _find(session: ReadSession, project_id: str, name: str) -> Row[Any] | None:
    """The row of an alias; its model is None where the alias was deleted."""
    c = model_aliases.c
    return session.first(select(model_aliases).where(c.project_id == project_id, c.name == name))


def _existing(row: Row[Any] | None, name: str) -> Row[Any]:
    if row is None or row.model is None:
        raise _not_found(name)
    return row


def _not_found(name: str) -> NotFound:
    return NotFound(
        f"No such alias: '{name[:128]}'. List those of your project with GET /v1/model_aliases.", param="alias"
    )


def _alias(row: Row[Any]) -> Alias:
    return Alias(row.name, row.model, row.number, row.created_at, row.updated_at)


def _revision(row: Row[Any]) -> AliasRevision:
    names = AliasRevision.__dataclass_fields__
    return AliasRevision(**{**{name: row._mapping[name] for name in names}, "cause": Cause(row.cause)})
