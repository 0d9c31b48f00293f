"""Ids in the registry, and events about models: a project's own model has a name that no other project's is in the way of.

Most models' id is their name. Where a project's own has the name of another project's, or of one that all share since, its
id is qualified by the project; callers never see that.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Row, delete, select, update

from llmariner.errors import Conflict
from llmariner.models.model import LoadingStatus, NewModel, qualified
from llmariner.models.tables import model_wakes, models
from llmariner.platform.database import WriteSession
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.events import outbox
from llmariner.platform.serving import served_name

__all__ = ["CREATED", "DELETED", "FAILED", "LOADED", "UPDATED", "free_id", "tell"]

CREATED = "ai.llmariner.model.created.v1"
LOADED = "ai.llmariner.model.loaded.v1"
FAILED = "ai.llmariner.model.failed.v1"
UPDATED = "ai.llmariner.model.updated.v1"
DELETED = "ai.llmariner.model.deleted.v1"


def free_id(session: WriteSession, new: NewModel) -> tuple[str, int]:
    """The id of a new model, and when it is created: later than any that had that id before.

    Conflict where its project sees one of that name. Another project's own steps aside for one that all share.
    """
    taken = session.first(select(models).where(models.c.id == new.id, models.c.deleted.is_(False)))
    own = None if new.project_id is None else qualified(new.id, new.project_id)
    mine = session.first(select(models.c.id).where(models.c.id == own, models.c.deleted.is_(False)))
    if mine is not None or (taken is not None and taken.project_id in (None, new.project_id)):
        raise Conflict(f"A model with id '{new.id}' exists already.", param="id")
    if taken is None or own is None:
        before = 0 if taken is None else _step_aside(session, taken)
        return new.id, max(before + 1, _forgotten(session, new.id))
    return own, _forgotten(session, own)


def tell(session: WriteSession, kind: str, model_id: str, project_id: str | None, **more: Any) -> None:
    """An event about a model. `registry_id`, where it is not the name, is for our own consumers."""
    name = served_name(model_id)
    apart = {} if name == model_id else {"registry_id": model_id}
    outbox.add(session, kind, f"models/{name}", {"id": name, "project_id": project_id, **apart, **more})


def _step_aside(session: WriteSession, row: Row[Any]) -> int:
    """Qualify a project's own model; returns when it was created. Its engine ends, and starts anew when it is asked for."""
    new_id = qualified(row.id, row.project_id)
    _forgotten(session, new_id)
    session.run(
        update(models).where(models.c.id == row.id).values(id=new_id, revision=next_revision(session, "models"))
    )
    session.run(update(models).where(models.c.base_model_id == row.id).values(base_model_id=new_id))
    session.run(update(model_wakes).where(model_wakes.c.model_id == row.id).values(model_id=new_id))
    if row.loading_status in (LoadingStatus.REQUESTED, LoadingStatus.LOADING):
        tell(session, CREATED, new_id, row.project_id)  # whoever brings its weights finds it no more by the other id
    return int(row.created_at)


def _forgotten(session: WriteSession, model_id: str) -> int:
    """Drop what is kept of a deleted model of that id; returns a time of creation that it did not have."""
    gone = session.value(delete(models).where(models.c.id == model_id, models.c.deleted).returning(models.c.created_at))
    return max(int(time.time()), (gone or 0) + 1)
