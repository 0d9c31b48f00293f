"""The vector stores of projects: created, listed, changed, deleted, and ended when their time is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Row, and_, func, or_, select, update

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, Duplicate, ReadSession, WriteSession
from llmariner.tenancy.organizations.active_projects import archival_cutoff, is_archived_since
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import projects
from llmariner.tenancy.validators import validate_title
from llmariner.vector_store_settings import VectorStoreSettings
from llmariner.vector_stores.added_files import add_files
from llmariner.vector_stores.attributes import validate_metadata
from llmariner.vector_stores.events import CREATED, DELETED, EXPIRED, UPDATED, add_store_event
from llmariner.vector_stores.pages import Paging, fetch_page
from llmariner.vector_stores.rows import contents_by, load_store
from llmariner.vector_stores.store import SECONDS_PER_DAY, NewVectorStore, VectorStore, is_expired
from llmariner.vector_stores.tables import vector_store_files, vector_stores

__all__ = ["VectorStores", "record_activity", "touch_store"]

_MAX_DESCRIPTION_LENGTH = 4096
_MAX_DAYS = 365
# An activity within it is not written again: every search is one.
_ACTIVITY_SECONDS = 60
_SWEEP_BATCH = 100
_PROJECTS_AT_ONCE = 1000

_c = vector_stores.c


class VectorStores:
    """The vector stores of one installation. `project_id` limits a call to that project; others' stores are NotFound.

    All methods block.
    """

    def __init__(self, database: Database, settings: VectorStoreSettings) -> None:
        self._database = database
        self._settings = settings

    def create(self, caller: Caller, new: NewVectorStore) -> VectorStore:
        """Create a vector store with its files. InvalidRequest, NotFound for an unknown file, Conflict for a taken name.

        Conflict also at the maximum number of stores or files. Nothing is created then.
        """
        owner = caller.key_owner
        name, now = self._validated_name(new.name), int(time.time())
        store_id = new_id("vs")
        row = {
            "id": store_id,
            "organization_id": owner.organization_id,
            "project_id": owner.project_id,
            "name": name,
            "unique_name": name if self._settings.unique_names else None,
            "description": _validate_description(new.description),
            "metadata": _dump(validate_metadata(new.metadata)),
            "created_at": now,
            "embedding_model": new.embedding_model or self._settings.embedding_model,
            **_activity(now, _validate_days(new.expires_after_days)),
            "expires_after_days": new.expires_after_days,
        }

        def insert(session: WriteSession) -> VectorStore:
            self._check_number(session, owner.project_id)
            session.add(vector_stores, **row)
            store = load_store(session, owner.project_id, store_id)
            add_store_event(session, CREATED, store)
            add_files(session, caller, store, new.files, max_files=self._settings.files_per_store)
            return _with_contents(session, [store])[0]

        return self._transact(insert, name)

    def page(self, project_id: str, paging: Paging, name: str | None = None) -> tuple[list[VectorStore], bool]:
        """A page of the stores of a project, or of those with a name, and whether more follow."""
        query = select(vector_stores).where(_c.project_id == project_id, _c.deleted_at.is_(None))
        if name is not None:
            query = query.where(_c.name == name)
        with self._database.read() as session:
            rows, more = fetch_page(session, query, _c.id, paging)
            return _with_contents(session, rows), more

    def get(self, project_id: str, store_id: str) -> VectorStore:
        """One vector store. NotFound."""
        with self._database.read() as session:
            return _with_contents(session, [load_store(session, project_id, store_id)])[0]

    def update(self, caller: Caller, store_id: str, change: Mapping[str, Any]) -> VectorStore:
        """Change `name`, `description`, `metadata`, `expires_after_days`; what `change` does not have stays.

        A change is an activity. Conflict for a name that another store has, and for the expiry of an expired store.
        """
        project_id = caller.key_owner.project_id
        values = self._validated_change(change)

        def apply(session: WriteSession) -> VectorStore:
            store = load_store(session, project_id, store_id, lock=True)
            if not is_expired(store):
                days = values.get("expires_after_days", store.expires_after_days)
                values.update(_activity(int(time.time()), days))
            elif "expires_after_days" in values:
                raise Conflict(
                    f"The vector store '{store_id}' has expired, and its files are removed: create a new one.",
                    param="expires_after",
                    code="vector_store_expired",
                )
            if values:
                session.run(update(vector_stores).where(_c.id == store_id).values(**values))
            changed = load_store(session, project_id, store_id)
            add_store_event(session, UPDATED, changed)
            return _with_contents(session, [changed])[0]

        return self._transact(apply, str(values.get("name", "")))

    def delete(self, caller: Caller, store_id: str) -> None:
        """Delete a vector store; its files remain files of the project. NotFound.

        An event lets a consumer remove its chunks.
        """
        project_id = caller.key_owner.project_id
        self._database.transact(
            lambda session: _delete(session, caller, load_store(session, project_id, store_id, lock=True))
        )

    def expire(self, *, seconds: float = 60.0) -> int:
        """End the stores whose time is over, and remove their files; returns the number. For the sweep.

        Their rows remain, with the status `expired`. It ends after that many seconds; the next sweep continues.
        """
        due = and_(_c.expires_at <= int(time.time()), _c.expired_at.is_(None), _c.deleted_at.is_(None))
        ended, until = 0, time.monotonic() + seconds
        while True:
            with self._database.read() as session:
                ids = [
                    row.id for row in session.rows(select(_c.id).where(due).order_by(_c.expires_at).limit(_SWEEP_BATCH))
                ]
            for store_id in ids:
                ended += self._database.transact(partial(_expire, store_id=store_id))
                if time.monotonic() > until:
                    return ended
            if len(ids) < _SWEEP_BATCH:
                return ended

    def delete_orphans(self, *, archived_days: float, seconds: float = 60.0) -> int:
        """Delete the stores of projects that were archived so many days ago; returns the number. For the sweep.

        Each is in the audit log. It ends as `expire`.
        """
        deleted, until = 0, time.monotonic() + seconds
        with self._database.read() as session:
            before = archival_cutoff(session, archived_days)
            # Other ones each time: archived projects remain for ever, and most have no stores any more.
            archived = select(projects.c.id).where(projects.c.archived_at <= before).order_by(func.random())
            ids = [row.id for row in session.rows(archived.limit(_PROJECTS_AT_ONCE))]
        for project_id in ids:
            query = select(_c.id).where(_c.project_id == project_id, _c.deleted_at.is_(None)).order_by(_c.id)
            with self._database.read() as session:
                stores = [row.id for row in session.rows(query)]
            for store_id in stores:
                deleted += self._database.transact(partial(_delete_orphan, store_id=store_id, archived_before=before))
                if time.monotonic() > until:
                    return deleted
        return deleted

    def _transact(self, work: Callable[[WriteSession], VectorStore], name: str) -> VectorStore:
        try:
            return self._database.transact(work)
        except Duplicate as error:
            raise Conflict(
                f"A vector store of your project has the name '{name}' already: choose another one.", param="name"
            ) from error

    def _validated_name(self, name: str) -> str:
        if not name and not self._settings.unique_names:
            return ""
        return validate_title(name, "name")

    def _validated_change(self, change: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(change)
        if "name" in values:
            values["name"] = self._validated_name(values["name"])
            values["unique_name"] = values["name"] if self._settings.unique_names else None
        if "description" in values:
            _validate_description(values["description"])
        if "metadata" in values:
            values["metadata"] = _dump(validate_metadata(values["metadata"]))
        if "expires_after_days" in values:
            _validate_days(values["expires_after_days"])
        return values

    def _check_number(self, session: ReadSession, project_id: str) -> None:
        counted = select(func.count()).select_from(vector_stores)
        number = session.value(counted.where(_c.project_id == project_id, _c.deleted_at.is_(None)))
        if number >= self._settings.stores_per_project:
            raise Conflict(
                f"Your project has {number} vector stores, as many as it may have: delete one that is not needed.",
                code="too_many_vector_stores",
            )


def record_activity(database: Database, project_id: str, store_ids: Sequence[str]) -> None:
    """Note that stores were searched, which moves their expiry; written once a minute at most."""
    now = int(time.time())
    quiet = and_(
        _c.project_id == project_id,
        _c.id.in_(store_ids),
        _c.last_active_at <= now - _ACTIVITY_SECONDS,
        _c.deleted_at.is_(None),
        or_(_c.expires_at.is_(None), _c.expires_at > now),
    )
    with database.read() as session:
        if session.first(select(_c.id).where(quiet).limit(1)) is None:
            return
    for store_id in store_ids:
        with database.write() as session:
            store = session.first(select(vector_stores).where(_c.id == store_id, quiet).with_for_update())
            if store is not None:
                touch_store(session, store)


def touch_store(session: WriteSession, store: Row[Any]) -> None:
    """Note an activity of a store that the transaction locked."""
    values = _activity(int(time.time()), store.expires_after_days)
    session.run(update(vector_stores).where(_c.id == store.id).values(**values))


def _expire(session: WriteSession, store_id: str) -> int:
    """End one store, unless it was active or deleted meanwhile."""
    now = int(time.time())
    due = and_(_c.id == store_id, _c.expires_at <= now, _c.expired_at.is_(None), _c.deleted_at.is_(None))
    store = session.first(select(vector_stores).where(due).with_for_update())
    if store is None:
        return 0
    session.run(update(vector_stores).where(_c.id == store_id).values(expired_at=now))
    live = and_(vector_store_files.c.vector_store_id == store_id, vector_store_files.c.deleted_at.is_(None))
    session.run(update(vector_store_files).where(live).values(deleted_at=now))
    add_store_event(session, EXPIRED, store)
    return 1


def _delete(session: WriteSession, actor: Caller | None, store: Row[Any]) -> None:
    """`store`: a locked row. `actor` None: the platform."""
    ended = {"deleted_at": int(time.time()), "unique_name": None}
    session.run(update(vector_stores).where(_c.id == store.id).values(**ended))
    add_store_event(session, DELETED, store)
    place = {"organization_id": store.organization_id, "project_id": store.project_id}
    log.append_entry(session, actor, "vector_store.deleted", {"id": store.id, "name": store.name}, **place)


def _delete_orphan(session: WriteSession, store_id: str, archived_before: float) -> int:
    """Delete one store, unless it is deleted or its project is restored."""
    live = and_(_c.id == store_id, _c.deleted_at.is_(None))
    store = session.first(select(vector_stores).where(live).with_for_update())
    if store is None or not is_archived_since(session, store.project_id, archived_before):
        return 0
    _delete(session, None, store)
    return 1


def _with_contents(session: ReadSession, rows: Sequence[Row[Any]]) -> list[VectorStore]:
    contents = contents_by(session, vector_store_files.c.vector_store_id, [row.id for row in rows])
    return [VectorStore.from_row(row, contents[row.id]) for row in rows]


def _activity(now: int, days: int | None) -> dict[str, int | None]:
    """The columns that an activity changes."""
    return {"last_active_at": now, "expires_at": None if days is None else now + days * SECONDS_PER_DAY}


def _validate_days(days: int | None) -> int | None:
    if days is not None and not 1 <= days <= _MAX_DAYS:
        param = "expires_after.days"
        raise InvalidRequest(f"'{param}' must be 1 to {_MAX_DAYS}, not {days}.", param=param)
    return days


def _validate_description(text: str) -> str:
    if len(text) > _MAX_DESCRIPTION_LENGTH:
        raise InvalidRequest(
            f"'description' may have {_MAX_DESCRIPTION_LENGTH} characters at most, not {len(text)}.",
            param="description",
        )
    if "\0" in text:
        raise InvalidRequest("'description' must not contain a NUL character.", param="description")
    return text


def _dump(pairs: Mapping[str, Any]) -> str:
    return json.dumps(pairs, separators=(",", ":"))
