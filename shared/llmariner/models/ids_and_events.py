"""Registry ids of models, and events about models. Names are unique per project, ids per installation.

The id of a model is its name. Where a project's model has the name of another project's model, or of a shared model that
was registered later, the project's id qualifies its id (`models.model.qualified_id`); the API shows names only.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Row, delete, select, update

from llmariner.errors import Conflict
from llmariner.models.copies.tables import model_copies
from llmariner.models.model import LoadingStatus, NewModel, qualified_id
from llmariner.models.tables import model_aliases, model_wakes, models
from llmariner.platform.database import WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.events import outbox
from llmariner.platform.serving import served_name

__all__ = [
    "CREATED",
    "DELETED",
    "FAILED",
    "LOADED",
    "LOADING_REQUESTED",
    "UPDATED",
    "add_model_event",
    "allocate_id",
]

CREATED = "ai.llmariner.model.created.v1"
LOADED = "ai.llmariner.model.loaded.v1"
FAILED = "ai.llmariner.model.failed.v1"
UPDATED = "ai.llmariner.model.updated.v1"
DELETED = "ai.llmariner.model.deleted.v1"
LOADING_REQUESTED = "ai.llmariner.model.loading_requested.v1"


def allocate_id(session: WriteSession, new: NewModel) -> tuple[str, int]:
    """Return the id of a new model and its time of creation, which is later than that of any model with that id before.

    Conflict where its project sees a model of that name. A project's model that has the name of a new shared model gets a
    qualified id.
    """
    taken = session.first(select(models).where(models.c.id == new.id, models.c.deleted.is_(False)))
    own_id = None if new.project_id is None else qualified_id(new.id, new.project_id)
    own = session.first(select(models.c.id).where(models.c.id == own_id, models.c.deleted.is_(False)))
    if own is not None or (taken is not None and taken.project_id in (None, new.project_id)):
        raise Conflict(f"A model with id '{new.id}' exists already.", param="id")
    alias = (model_aliases.c.project_id == new.project_id) & (model_aliases.c.name == new.id)
    if session.first(select(model_aliases.c.model).where(alias, model_aliases.c.model.is_not(None))) is not None:
        raise Conflict(f"'{new.id}' is an alias in your project: choose another id, or delete the alias.", param="id")
    if taken is None or own_id is None:
        before = 0 if taken is None else _qualify_existing(session, taken)
        return new.id, max(before + 1, _purge_deleted(session, new.id))
    return own_id, _purge_deleted(session, own_id)


def add_model_event(session: WriteSession, kind: str, model_id: str, project_id: str | None, **more: Any) -> None:
    """Add an event about a model to the outbox; its data has `registry_id`, for our consumers, where it is not the name."""
    name = served_name(model_id)
    registry_id = {} if name == model_id else {"registry_id": model_id}
    outbox.add(session, kind, f"models/{name}", {"id": name, "project_id": project_id, **registry_id, **more})


def _qualify_existing(session: WriteSession, row: Row[Any]) -> int:
    """Qualify the id of a project's model; returns its time of creation.

    The engine under the previous id stops; the next request starts one under the new id.
    """
    new_id = qualified_id(row.id, row.project_id)
    _purge_deleted(session, new_id)
    session.run(
        update(models).where(models.c.id == row.id).values(id=new_id, revision=next_revision(session, "models"))
    )
    session.run(update(models).where(models.c.base_model_id == row.id).values(base_model_id=new_id))
    session.run(update(model_wakes).where(model_wakes.c.model_id == row.id).values(model_id=new_id))
    copies = update(model_copies).where(model_copies.c.model_id == row.id)
    session.run(copies.where(model_copies.c.model_created_at == row.created_at).values(model_id=new_id))
    if row.loading_status in (LoadingStatus.REQUESTED, LoadingStatus.LOADING):
        # A fetch that is under way does not find the model by its previous id any more: this event starts another.
        add_model_event(session, CREATED, new_id, row.project_id, fine_tuning_job_id=None)
    return int(row.created_at)


def _purge_deleted(session: WriteSession, model_id: str) -> int:
    """Remove the row of a deleted model of that id; returns a time of creation later than its."""
    gone = session.value(delete(models).where(models.c.id == model_id, models.c.deleted).returning(models.c.created_at))
    return max(int(time.time()), (gone or 0) + 1)
