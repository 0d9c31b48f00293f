"""Rebuilds of the index of a vector store: all of its files are embedded and indexed again, some at a time.

A request notes the rebuild in the store's row and writes an event. Its consumer hands the first files to the indexer, and
each file that is indexed the next one. The sweep continues a rebuild whose event was lost. A file in progress keeps its rows
and what the index has of it, so that searches find it.
"""

from __future__ import annotations

import random
import time
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, exists, func, or_, select, update

from llmariner.errors import RateLimited
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.tenancy.background_work import Originator
from llmariner.tenancy.principal import Caller
from llmariner.vector_stores.events import FILE_PARSED, REBUILD_REQUESTED, add_store_event
from llmariner.vector_stores.ingest.claims import Claim, ClaimLost, hand_on
from llmariner.vector_stores.rows import lock_active_store, lock_live_file
from llmariner.vector_stores.tables import vector_store_chunks, vector_store_files, vector_stores

__all__ = ["change_dimension", "continue_rebuilds", "hand_on_rebuild", "index_again", "note_rebuild", "request_rebuild"]

FILES_IN_PROGRESS = 50
"""Files of one store that wait for the indexer at a time: other projects' files do not wait for all of a rebuild."""

REBUILDS_PER_PROJECT = 3
"""Stores of a project that may be under a rebuild at a time."""

_RETRY_AFTER_SECONDS = 30
# After that time the sweep takes an event for lost.
_EVENT_SECONDS = 60.0
_STORES_AT_ONCE = 50

_files, _stores = vector_store_files.c, vector_stores.c


def request_rebuild(database: Database, caller: Caller, store_id: str) -> None:
    """Let all completed files of a store of the caller's project be embedded and indexed again; counts to the caller.

    While a rebuild of the store is under way, the rest of it counts to the caller, and nothing else happens; it is until the
    last file is indexed, or waits for something else. A store without such files is left as it is. NotFound; Conflict for an
    expired store; RateLimited while REBUILDS_PER_PROJECT others are under way.
    """
    originator = Originator.of(caller)

    def request(session: WriteSession) -> None:
        store = lock_active_store(session, originator.project_id, store_id)
        if store.rebuild_requested_at is None and not _is_under_way(session, store_id):
            if not _has_due(session, store_id, session.now()):
                return
            _check_number(session, originator.project_id, store_id)
            note_rebuild(session, store, originator)
        else:
            _set_payer(session, store, originator)

    database.transact(request)


def note_rebuild(session: WriteSession, store: Row[Any], originator: Originator | None) -> None:
    """Begin a rebuild of a locked row of `vector_stores`. `originator` None: it counts to the project alone."""
    _set_payer(session, store, originator)
    requested = update(vector_stores).where(_stores.id == store.id).values(rebuild_requested_at=session.now())
    session.run(requested)
    add_store_event(session, REBUILD_REQUESTED, store)


def _set_payer(session: WriteSession, store: Row[Any], originator: Originator | None) -> None:
    user_id, key_id = (None, None) if originator is None else (originator.user_id, originator.key_id)
    if (store.rebuild_user_id, store.rebuild_key_id) == (user_id, key_id):
        return
    payer = {"rebuild_user_id": user_id, "rebuild_key_id": key_id}
    session.run(update(vector_stores).where(_stores.id == store.id).values(**payer))
    # They may wait for a limit or budget of who asked before.
    waiting = and_(_of_rebuild(store.id), _files.error_code.is_not(None))
    session.run(update(vector_store_files).where(waiting).values(retry_at=session.now()))


def hand_on_rebuild(database: Database, store_id: str) -> int:
    """Hand files of a store under a rebuild to the indexer, up to FILES_IN_PROGRESS; returns their number. Idempotent.

    The rebuild ends with its last file that is handed on.
    """
    with database.read() as session:
        store = session.first(select(vector_stores).where(_stores.id == store_id))
        if store is None or store.rebuild_requested_at is None:
            return 0
        requested_at = store.rebuild_requested_at
        count = select(func.count()).select_from(vector_store_files).where(_of_rebuild(store_id))
        room = FILES_IN_PROGRESS - int(session.value(count.where(_files.rebuild_at == requested_at)))
        query = select(_files.id).where(_due(store_id, requested_at)).order_by(_files.status.desc(), _files.id)
        ids = [row.id for row in session.rows(query.limit(max(room, 0)))]
    handed_on = sum(
        database.transact(partial(_rebuild_file, row_id=row_id, requested_at=requested_at)) for row_id in ids
    )
    database.transact(partial(_end_rebuild, store_id=store_id, requested_at=requested_at))
    return handed_on


def continue_rebuilds(database: Database, *, until: float) -> int:
    """Continue rebuilds until that time (monotonic); returns the number of files.

    The same number of each project first, and other ones each time: those that wait for a budget do not delay the others.
    """
    with database.read() as session:
        due = and_(_stores.rebuild_requested_at <= session.now() - _EVENT_SECONDS, _stores.deleted_at.is_(None))
        turn = func.row_number().over(partition_by=_stores.project_id, order_by=func.random())
        query = select(_stores.id).where(due).order_by(turn, func.random()).limit(_STORES_AT_ONCE)
        ids = [row.id for row in session.rows(query)]
    handed_on = 0
    for store_id in ids:
        if time.monotonic() > until:
            break
        handed_on += hand_on_rebuild(database, store_id)
    return handed_on


def change_dimension(database: Database, claim: Claim, old: int, new: int) -> None:
    """Let the index of a store under a rebuild have vectors of another dimension: all of its files begin again.

    ClaimLost: nothing is changed. The claim is lost then, too, and so are those of all other files that are embedded.
    """

    def change(session: WriteSession) -> None:
        of_store = _stores.id == claim.row.vector_store_id
        store = session.first(select(vector_stores).where(of_store).with_for_update())
        row = claim.check(session)
        if store is None or store.dimension != old:
            raise ClaimLost
        ended = {"dimension": new, "rebuild_requested_at": None}
        session.run(update(vector_stores).where(of_store).values(**ended))
        payer = Originator(row.rebuild_user_id, row.project_id, row.organization_id, row.rebuild_key_id)
        fresh = session.first(select(vector_stores).where(of_store))
        assert fresh is not None
        note_rebuild(session, fresh, payer if row.rebuild_user_id else None)
        embedded = and_(_files.vector_store_id == store.id, _files.status == "in_progress", _files.step == "embed")
        begin = {"next_chunk": 0, "retry_at": session.now() - random.random()}
        session.run(update(vector_store_files).where(embedded, _files.deleted_at.is_(None)).values(**begin))

    database.transact(change)


def index_again(session: WriteSession, row_id: str, *, rebuild_at: float | None) -> int:
    """Hand a file that is or was completed to the indexer; 1 if it is. `rebuild_at`: None for a repair."""
    row = lock_live_file(session, row_id)
    if row is None or (row.status != "completed" and (row.status != "in_progress" or row.completed_at is None)):
        return 0
    of_file = vector_store_chunks.c.vector_store_file_id == row_id
    session.run(update(vector_store_chunks).where(of_file).values(indexed=False))
    begin = {"status": "in_progress", "step": "embed", "next_chunk": 0, "attempts": 0}
    waits = {"error_code": None, "error_message": None}
    # The previous release did not note when a file was completed.
    since = {"completed_at": row.completed_at or int(session.now()), "rebuild_at": rebuild_at}
    hand_on(session, row, FILE_PARSED, **begin, **waits, **since)
    return 1


def _rebuild_file(session: WriteSession, *, row_id: str, requested_at: float) -> int:
    row = lock_live_file(session, row_id)
    if row is None or row.rebuild_requested_at != requested_at or row.rebuild_at == requested_at:
        return 0
    return index_again(session, row_id, rebuild_at=requested_at)


def _end_rebuild(session: WriteSession, *, store_id: str, requested_at: float) -> None:
    store = session.first(select(vector_stores).where(_stores.id == store_id).with_for_update())
    if store is None or store.rebuild_requested_at != requested_at:
        return
    is_live = store.deleted_at is None and store.expired_at is None
    if not is_live or not _has_due(session, store_id, requested_at):
        session.run(update(vector_stores).where(_stores.id == store_id).values(rebuild_requested_at=None))


def _of_rebuild(store_id: str) -> ColumnElement[bool]:
    """The files of a store that are in progress in a rebuild."""
    return and_(_files.vector_store_id == store_id, _in_rebuild())


def _in_rebuild() -> ColumnElement[bool]:
    in_progress = and_(_files.status == "in_progress", _files.completed_at.is_not(None), _files.rebuild_at.is_not(None))
    return and_(_files.deleted_at.is_(None), in_progress)


def _due(store_id: str, requested_at: float) -> ColumnElement[bool]:
    """The files of a store that a rebuild did not hand on yet."""
    in_progress = and_(_files.status == "in_progress", _files.completed_at.is_not(None))
    return and_(
        _files.vector_store_id == store_id,
        _files.deleted_at.is_(None),
        or_(_files.status == "completed", in_progress),
        or_(_files.rebuild_at.is_(None), _files.rebuild_at != requested_at),
    )


def _has_due(session: ReadSession, store_id: str, requested_at: float) -> bool:
    return session.first(select(_files.id).where(_due(store_id, requested_at)).limit(1)) is not None


def _is_under_way(session: ReadSession, store_id: str) -> bool:
    """Whether files that the last rebuild handed on are being indexed, and none of them waits for a limit or a model."""
    working = select(_files.id).where(_of_rebuild(store_id), _files.error_code.is_(None))
    return session.first(working.limit(1)) is not None


def _check_number(session: ReadSession, project_id: str, store_id: str) -> None:
    """RateLimited while too many other stores of a project are being rebuilt, or their last files wait for the indexer."""
    live = and_(_stores.project_id == project_id, _stores.deleted_at.is_(None), _stores.expired_at.is_(None))
    # Files that wait for something else, such as a budget, may wait for days.
    waiting = exists().where(_files.vector_store_id == _stores.id, _in_rebuild(), _files.error_code.is_(None))
    under_way = or_(_stores.rebuild_requested_at.is_not(None), waiting)
    others = select(func.count()).select_from(vector_stores).where(live, under_way, _stores.id != store_id)
    number = int(session.value(others))
    if number >= REBUILDS_PER_PROJECT:
        raise RateLimited(
            f"{number} vector stores of your project are being rebuilt. Try again when one of them is 'completed'.",
            code="too_many_rebuilds",
            headers={"retry-after": str(_RETRY_AFTER_SECONDS)},
        )
