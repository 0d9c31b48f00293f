"""Which copies there are, who works on them, and the files of each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, exists, func, or_, select, update

from llmariner.identifiers import new_id
from llmariner.models.copies.blobs import GARBAGE_SECONDS, HELD_SECONDS, Blobs
from llmariner.models.copies.tables import model_blobs, model_copies, model_copy_files
from llmariner.models.model import LoadingStatus, Model
from llmariner.models.tables import models
from llmariner.platform.database import Database, WriteSession
from llmariner.platform.model_files import Listing, RemoteFile
from llmariner.platform.model_files.object_copy import COPY_PREFIX
from llmariner.platform.objects import ObjectStore
from llmariner.platform.objects.garbage import collect

__all__ = ["CopyFile", "CopyRecords", "ModelCopy"]

_FIRST_CONVERTED = 1 << 20
"""Position of the first file that is made of others; a location has fewer files."""
MAX_PER_PROJECT = 2
"""How many copies of a project are made at once, about: two processes that begin at the same time may exceed it."""
_STALLED_SECONDS = 180.0
_AT_ONCE = 50


@dataclass(frozen=True)
class ModelCopy:
    """A copy of a model's files. `revision` None: they are not listed yet. `idle_seconds`: since bytes arrived last."""

    id: str
    revision: str | None
    idle_seconds: float


@dataclass(frozen=True)
class CopyFile:
    """A file of a copy, and how much of its content is stored. `is_converted`: it is made of others of the copy."""

    position: int
    file: RemoteFile
    blob_id: str
    confirmed: bool
    stored_bytes: int
    is_stored: bool
    sha256: str

    @property
    def is_converted(self) -> bool:
        """See the class."""
        return self.position >= _FIRST_CONVERTED

    @property
    def is_shared(self) -> bool:
        """Whether all copies with a file of that content store it together."""
        return self.blob_id == self.file.key

    @property
    def is_done(self) -> bool:
        """Whether the content is stored, and the source was seen to have it for this model."""
        return self.is_stored and self.confirmed


class CopyRecords:
    """The copies of one installation. `holder` identifies this process's slice. All methods block."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder

    def hold(self, model: Model) -> ModelCopy | None:
        """The copy of a model to work on, made if it is missing; None while another process works on it.

        None as well while `MAX_PER_PROJECT` other copies of the project are made: a project's slow sources must not occupy
        every process.
        """
        c = model_copies.c
        this = and_(c.model_id == model.id, c.model_created_at == model.created_at)
        blank = {"holder": "", "held_until": 0.0, "revision": None, "project_id": model.project_id}
        with self._database.write() as session:
            now = session.now()
            row = {"id": new_id("mcopy"), "model_id": model.id, "model_created_at": model.created_at}
            session.insert_if_absent(model_copies, [{**row, **blank, "touched_at": now, "progressed_at": now}])
            found = session.first(select(model_copies).where(this).with_for_update())
            if found is None or (found.holder != self._holder and _is_held(found, now)):
                return None
            held = and_(c.held_until > now, c.held_until <= now + 2 * HELD_SECONDS, c.id != found.id)
            of_project = and_(held, func.coalesce(c.project_id, "") == (model.project_id or ""))
            if int(session.value(select(func.count()).select_from(model_copies).where(of_project))) >= MAX_PER_PROJECT:
                return None
            values = {"holder": self._holder, "held_until": now + HELD_SECONDS, "touched_at": now}
            session.run(update(model_copies).where(c.id == found.id).values(**values))
        return ModelCopy(found.id, found.revision, max(0.0, now - found.progressed_at))

    def release(self, copy: ModelCopy) -> None:
        """Let another process continue."""
        c = model_copies.c
        ours = and_(c.id == copy.id, c.holder == self._holder)
        with self._database.write() as session:
            values = {"holder": "", "held_until": 0.0, "touched_at": session.now()}
            session.run(update(model_copies).where(ours).values(**values))

    def progressed(self, copy: ModelCopy) -> None:
        """Record that bytes arrived."""
        with self._database.write() as session:
            values = {"progressed_at": session.now(), "held_until": session.now() + HELD_SECONDS}
            ours = and_(model_copies.c.id == copy.id, model_copies.c.holder == self._holder)
            session.run(update(model_copies).where(ours).values(**values))

    def plan(
        self, copy: ModelCopy, listing: Listing, files: Sequence[RemoteFile], converted: Sequence[RemoteFile] = ()
    ) -> ModelCopy:
        """Record the files of a listing, in place of those of an earlier one; returns the copy with its revision.

        `converted`: the files that are made of them, and that the copy has in the end.
        """
        c = model_copy_files.c
        with self._database.write() as session:
            session.run(delete(model_copy_files).where(c.copy_id == copy.id))
            _add_files(session, copy, files, first=0)
            _add_files(session, copy, converted, first=_FIRST_CONVERTED)
            this = update(model_copies).where(model_copies.c.id == copy.id)
            session.run(this.values(revision=listing.revision, progressed_at=session.now()))
        return replace(copy, revision=listing.revision)

    def plan_converted(self, copy: ModelCopy, converted: Sequence[RemoteFile]) -> None:
        """Record other files that are made of those of the copy: the code or the content has changed since `plan`."""
        c = model_copy_files.c
        with self._database.write() as session:
            session.run(delete(model_copy_files).where(c.copy_id == copy.id, c.position >= _FIRST_CONVERTED))
            _add_files(session, copy, converted, first=_FIRST_CONVERTED)

    def keep_converted(self, copy: ModelCopy) -> None:
        """Forget the files that others are made of; their contents are removed next unless other copies have them."""
        c = model_copy_files.c
        with self._database.write() as session:
            session.run(delete(model_copy_files).where(c.copy_id == copy.id, c.position < _FIRST_CONVERTED))

    def revision(self, copy: ModelCopy) -> str:
        """The commit or digest that was listed; empty where the source has none."""
        with self._database.read() as session:
            return str(session.value(select(model_copies.c.revision).where(model_copies.c.id == copy.id)) or "")

    def files(self, copy: ModelCopy) -> list[CopyFile]:
        """The files of a copy, in the order of the listing."""
        c, blob = model_copy_files.c, model_blobs.c
        state = (blob.state, blob.stored_bytes, blob.sha256.label("stored_sha256"))
        joined = model_copy_files.outerjoin(model_blobs, blob.id == c.blob_id)
        query = select(model_copy_files, *state).select_from(joined).where(c.copy_id == copy.id).order_by(c.position)
        with self._database.read() as session:
            return [_copy_file(row) for row in session.rows(query)]

    def confirm(self, copy: ModelCopy, position: int, blobs: Blobs) -> None:
        """Record that the source has a file for this model, unless its content is removed meanwhile."""
        c = model_copy_files.c
        this = and_(c.copy_id == copy.id, c.position == position)
        with self._database.write() as session:
            row = session.first(select(c.blob_id).where(this))
            if row is not None and blobs.use_stored(session, row.blob_id):
                session.run(update(model_copy_files).where(this).values(confirmed=True))

    def separate(self, copy: ModelCopy, each: CopyFile) -> None:
        """Have a copy store the content of a file alone, without bytes of others' sources and without waiting for these.

        Once both are stored, one of them is kept (`Blobs.finish`).
        """
        c = model_copy_files.c
        own_id = f"own-{hashlib.sha256(f'{copy.id} {each.file.key}'.encode()).hexdigest()}"
        this = and_(c.copy_id == copy.id, c.position == each.position, c.blob_id == each.file.key)
        with self._database.write() as session:
            session.run(update(model_copy_files).where(this).values(blob_id=own_id, confirmed=False))

    def next_waiting(self, project_id: str | None) -> tuple[str, int] | None:
        """The model (id, time of creation) of the project's copy that waits longest; None where none waits."""
        c = model_copies.c
        with self._database.write() as session:
            now = session.now()
            of_project = func.coalesce(c.project_id, "") == (project_id or "")
            query = _unfinished(c.held_until <= now, of_project).order_by(c.touched_at).limit(1)
            row = session.first(query)
            if row is None:
                return None
            session.run(update(model_copies).where(c.id == row.id).values(touched_at=now))
        return row.model_id, row.model_created_at

    def stalled(self) -> list[tuple[str, int]]:
        """Models whose copies nobody works on any more: their process was killed and its event is lost."""
        c = model_copies.c
        with self._database.write() as session:
            now = session.now()
            query = _unfinished(c.held_until <= now, c.touched_at < now - _STALLED_SECONDS).limit(_AT_ONCE)
            rows = session.rows(query.order_by(c.touched_at))
            session.run(update(model_copies).where(c.id.in_([row.id for row in rows])).values(touched_at=now))
        return [(row.model_id, row.model_created_at) for row in rows]

    def orphans(self) -> list[str]:
        """Some copies of deleted models."""
        with self._database.read() as session:
            return [row.id for row in session.rows(select(model_copies.c.id).where(~_has_model()).limit(_AT_ONCE))]

    def remove_orphans(self, ids: Sequence[str]) -> None:
        """Remove copies of deleted models; their contents are removed next unless other copies have them."""
        with self._database.write() as session:
            session.run(delete(model_copies).where(model_copies.c.id.in_(ids), ~_has_model()))

    def collect_manifests(self, objects: ObjectStore) -> int:
        """Delete old manifests without a copy, which processes wrote that worked for a deleted model; returns how many."""
        c = model_copies.c

        def referenced(keys: Sequence[str]) -> set[str]:
            named = {key: key.removeprefix(COPY_PREFIX).removesuffix(".json") for key in keys}
            with self._database.read() as session:
                found = {row.id for row in session.rows(select(c.id).where(c.id.in_(list(named.values()))))}
            return {key for key, copy_id in named.items() if copy_id in found}

        return collect(objects, COPY_PREFIX, referenced, time.time() - GARBAGE_SECONDS).deleted


def _add_files(session: WriteSession, copy: ModelCopy, files: Sequence[RemoteFile], first: int) -> None:
    for position, file in enumerate(files, first):
        said = {"path": file.path, "size": file.size, "url": file.url, "version": file.version}
        digests = {"sha256": file.sha256, "git_sha1": file.git_sha1, "md5": file.md5}
        place = {"copy_id": copy.id, "position": position, "blob_id": file.key, "confirmed": False}
        session.add(model_copy_files, **place, **said, **digests)


def _has_model() -> ColumnElement[bool]:
    c = model_copies.c
    same = and_(models.c.id == c.model_id, models.c.created_at == c.model_created_at)
    return exists().where(same, models.c.deleted.is_(False))


def _unfinished(*conditions: ColumnElement[bool]) -> Any:
    c = model_copies.c
    same = and_(models.c.id == c.model_id, models.c.created_at == c.model_created_at)
    loading = or_(models.c.loading_status == LoadingStatus.REQUESTED, models.c.loading_status == LoadingStatus.LOADING)
    columns = (c.id, c.model_id, c.model_created_at)
    joined = model_copies.join(models, same)
    return select(*columns).select_from(joined).where(loading, models.c.deleted.is_(False), *conditions)


def _is_held(row: Row[Any], now: float) -> bool:
    # An expiry far in the future means that the clock was set back.
    return bool(row.holder) and now < row.held_until <= now + 2 * HELD_SECONDS


def _copy_file(row: Row[Any]) -> CopyFile:
    digests = {"sha256": row.sha256, "git_sha1": row.git_sha1, "md5": row.md5}
    file = RemoteFile(row.path, row.size, row.url, **digests, version=row.version)
    stored, done = row.stored_bytes or 0, row.state == "stored"
    return CopyFile(row.position, file, row.blob_id, row.confirmed, stored, done, row.stored_sha256 or "")
