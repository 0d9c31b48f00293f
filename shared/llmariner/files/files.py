"""The files of projects: rows in the database, contents in the object store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from sqlalchemy import Column, ColumnElement, and_, delete, func, or_, select, tuple_

from llmariner.audit import log
from llmariner.errors import Conflict, InsufficientQuota, NotFound
from llmariner.file_settings import FileSettings
from llmariner.files.bytes_in_flight import BytesInFlight, CountedContent
from llmariner.files.content import IncomingContent, store_errors
from llmariner.files.events import CREATED, DELETED, add_file_event
from llmariner.files.external_objects import ExternalObjects, LocationNotAllowed, without_buckets
from llmariner.files.file import File, NewFile, StoredContent, file_from_row
from llmariner.files.names import clean_file_name, media_type
from llmariner.files.purposes import UNLISTED, Purpose, default_expiry_seconds
from llmariner.files.quotas import check_quota, lock_usage, release_quota, reserve_quota
from llmariner.files.references import FileReferences, check_unused
from llmariner.files.tables import file_contents, file_usage, files
from llmariner.identifiers import id_timestamp, new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.objects import ObjectNotFound, ObjectReader, ObjectStore, ObjectStoreUnavailable
from llmariner.tenancy.organizations.active_projects import archival_cutoff, is_archived_since
from llmariner.tenancy.principal import Caller, KeyOwner
from llmariner.tenancy.tables import projects

__all__ = ["Files", "Finish"]

_log = logging.getLogger(__name__)
_BATCH = 200
Finish = Callable[[WriteSession, File], None]
"""The last step of a transaction that makes a file."""


class _ContentGone(Exception):
    """The content that a new file was to share was freed meanwhile."""


class Files:
    """The files of one installation. `project_id` in a call limits it to that project; others' files are NotFound.

    All methods block. They raise Unavailable while the database or the object store does not answer.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        settings: FileSettings,
        references: Sequence[FileReferences] = (),
        external: ExternalObjects | None = None,
    ) -> None:
        self._database = database
        self._objects = objects
        self._references = references
        self._in_flight = BytesInFlight()
        self._external = external or ExternalObjects((), without_buckets)
        self.settings = settings

    def receive(
        self, owner: KeyOwner, *, purpose: Purpose | None, size_bytes: int, limit_bytes: int
    ) -> IncomingContent:
        """Begin a new file's content; `save` makes the file. `size_bytes`: as far as it is known, else 0.

        Until its end, it counts against the quota of all that the project sends to this process, as it arrives. The caller
        enters the result. Raises InsufficientQuota.
        """

        def check(size_bytes: int, others: int) -> None:
            with self._database.read() as session:
                check_quota(session, self.settings, owner.project_id, size_bytes=size_bytes + others)

        counted = CountedContent(self._in_flight, owner.project_id, check)
        try:
            counted.grow(size_bytes)
            return IncomingContent(self._objects, purpose=purpose, limit_bytes=limit_bytes, counted=counted)
        except BaseException:
            counted.release()
            raise

    def save(
        self, owner: KeyOwner, new: NewFile, content: IncomingContent, finish: Finish = lambda _session, _file: None
    ) -> File:
        """Make a file of received content. Raises InvalidRequest for content that the purpose excludes, InsufficientQuota.

        Content that the project has already is not stored again. `finish` is called as the last step of the transaction; it
        raises Conflict where the file must not be made.
        """
        content.check(new.purpose)
        with self._database.read() as session:
            known = _key_of(session, owner.project_id, content.sha256)
        if known is not None:
            content.release()
            try:
                return self._share(owner, new, content, finish)
            except _ContentGone:
                pass
        stored = content.commit()
        content.release()
        return self.add(owner, new, stored, finish)

    def add(
        self, owner: KeyOwner, new: NewFile, stored: StoredContent, finish: Finish = lambda _session, _file: None
    ) -> File:
        """Make a file of an object that is in the store, and take the object over. Raises InsufficientQuota, as `finish`.

        After another exception the object remains, since the transaction may have been committed; without a row it is
        garbage, which the sweep collects.
        """

        def insert(session: WriteSession) -> File:
            file = self.insert(session, owner, new, stored)
            finish(session, file)
            return file

        try:
            file = self._database.transact(insert)
        except (Conflict, InsufficientQuota):
            self._delete_objects([stored.key])
            raise
        if file.content_key != stored.key:
            self._delete_objects([stored.key])
        return file

    def insert(self, session: WriteSession, owner: KeyOwner, new: NewFile, stored: StoredContent) -> File:
        """As `add`, in the caller's transaction, which locks nothing before but what `lock_usage` does and rows of its own.

        Once it is committed, the caller deletes the object if the file has another `content_key`.
        """
        made = _new_file(owner, new, stored.size_bytes)
        self._reserve(session, made)
        key = _key_of(session, owner.project_id, stored.sha256)
        if key is None:
            key = stored.key
            place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
            columns = {"key": key, "sha256": stored.sha256, "size_bytes": stored.size_bytes}
            session.add(file_contents, **columns, **place, created_at=made["created_at"])
        return _insert(session, {**made, "content_key": key})

    def link(self, owner: KeyOwner, purpose: Purpose, object_path: str) -> File:
        """Make a file of an object outside the store, without a copy: its bytes count against no quota.

        Its content is not checked. Raises InvalidRequest where the project may not name the object or there is none,
        InsufficientQuota.
        """
        info = self._external.find(object_path, owner.project_id)
        name = clean_file_name(object_path, param="object_path")
        made = _new_file(owner, NewFile(name, purpose, media_type(None, name)), info.size)
        made["object_path"] = object_path

        def insert(session: WriteSession) -> File:
            self._reserve(session, made)
            return _insert(session, made)

        return self._database.transact(insert)

    def get(self, project_id: str, file_id: str) -> File:
        """One file. NotFound for an unknown or expired one."""
        with self._database.read() as session:
            return _load(session, project_id, file_id)

    def get_many(self, project_id: str, file_ids: Iterable[str]) -> dict[str, File]:
        """The files of the project with these ids, by id; others are left out. At most some hundred ids."""
        query = select(files).where(_visible(project_id), files.c.id.in_(sorted(set(file_ids))))
        with self._database.read() as session:
            return {row.id: file_from_row(row) for row in session.rows(query)}

    def page(
        self,
        project_id: str,
        *,
        purpose: Purpose | None,
        after: str | None,
        limit: int,
        order: Literal["asc", "desc"],
    ) -> list[File]:
        """Up to `limit` files by their time of creation. `after` is the id of a file that exists or existed."""
        conditions = [_visible(project_id), _listed()]
        if purpose is not None:
            conditions.append(files.c.purpose == purpose)
        if after is not None:
            conditions.append(files.c.id > after if order == "asc" else files.c.id < after)
        sorted_by = files.c.id.asc() if order == "asc" else files.c.id.desc()
        with self._database.read() as session:
            rows = session.rows(select(files).where(*conditions).order_by(sorted_by).limit(limit))
        return [file_from_row(row) for row in rows]

    def count(self, project_id: str, *, purpose: Purpose | None) -> int:
        """The number of files on all pages."""
        conditions = [_visible(project_id), _listed(), *([files.c.purpose == purpose] if purpose is not None else [])]
        with self._database.read() as session:
            return int(session.value(select(func.count()).select_from(files).where(*conditions)))

    def read(
        self, file: File, start: int = 0, size: int | None = None, *, version: str | None = None
    ) -> Iterator[bytes]:
        """The bytes of a file from `start`, at most `size` of them, in parts of at most 1 MiB.

        `version`: that of an object outside the store; Unavailable where the object was replaced since. NotFound for a file
        that was deleted meanwhile, and as `version`. The first part is read before this returns.
        """
        with _found(file), store_errors():
            if file.content_key is not None:
                parts = self._objects.read(file.content_key, start, size)
            else:
                path = file.object_path or ""
                parts = self._external.read(path, file.project_id, start=start, size=size, version=version)
            first = next(parts, b"")
        return _with_first(first, parts)

    def version(self, file: File) -> tuple[int, str | None]:
        """The present number of bytes of a file, and an opaque text that differs for other bytes of its object.

        None: it never has others. NotFound where an object outside the store is gone, or the project may not read it any
        more.
        """
        if file.object_path is None:
            return file.size_bytes, None
        with _found(file):
            info = self._external.info(file.object_path, file.project_id)
        return info.size, info.version

    def signed_download(self, file: File, content_disposition: str) -> str | None:
        """As `ObjectStore.signed_download`; None for a file whose bytes are outside the store, too."""
        if file.content_key is None:
            return None
        with store_errors():
            return self._objects.signed_download(
                file.content_key, content_type=file.content_type, content_disposition=content_disposition
            )

    def delete(self, actor: Caller, file_id: str) -> None:
        """Delete a file of the caller's project, and its content with the last file of it. Conflict while it is in use."""
        project_id = actor.key_owner.project_id
        self._delete(partial(_load, project_id=project_id, file_id=file_id), actor)

    def expire(self, *, seconds: float = 60.0) -> int:
        """Delete the files whose time is over; returns the number. Those in use remain until they are not. For the sweep.

        It ends after that many seconds; the next sweep continues.
        """
        condition = files.c.expires_at <= int(time.time())
        return self._delete_all(condition, files.c.expires_at, files.c.id, until=time.monotonic() + seconds)

    def delete_orphans(self, *, seconds: float = 60.0) -> int:
        """Delete the files of projects that are gone, or were archived `archived_days` ago; returns the number.

        Each is in the audit log. It ends as `expire`. For the sweep.
        """
        until = time.monotonic() + seconds
        with self._database.read() as session:
            before = archival_cutoff(session, self.settings.archived_days)
            kept = select(projects.c.id).where(or_(projects.c.archived_at.is_(None), projects.c.archived_at > before))
            rows = session.rows(select(file_usage.c.project_id).where(file_usage.c.project_id.not_in(kept)))
        ids = [row.project_id for row in rows]
        deleted = sum(
            self._delete_all(files.c.project_id == each, files.c.id, until=until, archived_before=before)
            for each in ids
        )
        with self._database.write() as session:
            session.run(delete(file_usage).where(file_usage.c.project_id.in_(ids), file_usage.c.files == 0))
        return deleted

    def referenced(self, keys: Sequence[str]) -> set[str]:
        """Which of these keys are the contents of files; the other objects are garbage."""
        with self._database.read() as session:
            rows = session.rows(select(file_contents.c.key).where(file_contents.c.key.in_(keys)))
        return {row.key for row in rows}

    def oldest_content_at(self) -> float:
        """The time of the oldest content in seconds since 1970; now, where there is none."""
        with self._database.read() as session:
            key: str | None = session.value(select(func.min(file_contents.c.key)))
        return id_timestamp(key or "") or time.time()

    def _share(self, owner: KeyOwner, new: NewFile, content: IncomingContent, finish: Finish) -> File:
        """Make a file of content that the project has. Raises _ContentGone."""
        made = _new_file(owner, new, content.size_bytes)

        def insert(session: WriteSession) -> File:
            self._reserve(session, made)
            key = _key_of(session, owner.project_id, content.sha256)
            if key is None:
                raise _ContentGone
            file = _insert(session, {**made, "content_key": key})
            finish(session, file)
            return file

        return self._database.transact(insert)

    def _reserve(self, session: WriteSession, made: dict[str, Any]) -> None:
        place = {name: made[name] for name in ("project_id", "organization_id")}
        reserve_quota(
            session, self.settings, **place, files=1, size_bytes=_counted_bytes(made["size_bytes"], made["object_path"])
        )

    def _delete_all(
        self,
        condition: ColumnElement[bool],
        *position: Column[Any],
        until: float,
        archived_before: float | None = None,
    ) -> int:
        """Delete the files of a condition in the order of the columns `position`, `until` a monotonic time.

        `archived_before`: only while their project is archived since then.
        """
        deleted, batch = 0, select(files).where(condition).order_by(*position).limit(_BATCH)
        query = batch
        while True:
            with self._database.read() as session:
                rows = session.rows(query)
            for row in rows:
                if time.monotonic() > until:
                    return deleted
                try:
                    load = partial(_load_any, file_id=row.id, archived_before=archived_before)
                    self._delete(load, None, audited=archived_before is not None)
                    deleted += 1
                except (Conflict, NotFound):  # in use, or deleted meanwhile
                    continue
            if len(rows) < _BATCH:
                return deleted
            last = [rows[-1]._mapping[column.name] for column in position]
            query = batch.where(tuple_(*position) > tuple_(*last))

    def _delete(self, load: Callable[[ReadSession], File], actor: Caller | None, *, audited: bool = True) -> None:
        with self._database.read() as session:
            file = load(session)

        def remove(session: WriteSession) -> list[str]:
            lock_usage(session, file.project_id, file.organization_id)
            load(session)  # under the lock: of two deletions the second finds nothing
            check_unused(session, self._references, file)
            for references in self._references:
                references.on_file_deleted(session, file)
            freed = _remove(session, file)
            if file.purpose not in UNLISTED:
                add_file_event(session, DELETED, file)
            if audited:
                payload = {"id": file.id, "data": {"filename": file.filename, "purpose": file.purpose.value}}
                place = {"organization_id": file.organization_id, "project_id": file.project_id}
                log.append_entry(session, actor, "file.deleted", payload, **place)
            return freed

        self._delete_objects(self._database.transact(remove))

    def _delete_objects(self, keys: Sequence[str]) -> None:
        """Delete objects that no row refers to. A failure leaves garbage, which the sweep collects."""
        if not keys:
            return
        try:
            self._objects.delete(keys)
        except ObjectStoreUnavailable as error:
            _log.warning("objects without a file remain until the sweep: %s", error)


def _new_file(owner: KeyOwner, new: NewFile, size_bytes: int) -> dict[str, Any]:
    seconds = new.expires_after_seconds
    if seconds is None:
        seconds = default_expiry_seconds(new.purpose)
    created = int(time.time())
    return {
        # OpenAI's ids of files have a hyphen.
        "id": new_id("file").replace("_", "-", 1),
        "organization_id": owner.organization_id,
        "project_id": owner.project_id,
        "filename": new.filename,
        "purpose": new.purpose,
        "size_bytes": size_bytes,
        "content_type": new.content_type,
        "content_key": None,
        "object_path": None,
        "created_at": created,
        "expires_at": None if seconds is None else created + seconds,
    }


def _insert(session: WriteSession, made: dict[str, Any]) -> File:
    session.add(files, **made)
    file = File(**made)
    if file.purpose not in UNLISTED:
        add_file_event(session, CREATED, file)
    return file


def _remove(session: WriteSession, file: File) -> list[str]:
    """Delete the row, and the content's where no other file has it; returns the keys of freed objects."""
    session.run(delete(files).where(files.c.id == file.id))
    place = {"project_id": file.project_id, "organization_id": file.organization_id}
    counted = _counted_bytes(file.size_bytes, file.object_path)
    release_quota(session, **place, files=1, size_bytes=counted)
    key = file.content_key
    if key is None or session.first(select(files.c.id).where(files.c.content_key == key).limit(1)) is not None:
        return []
    session.run(delete(file_contents).where(file_contents.c.key == key))
    return [key]


def _counted_bytes(size_bytes: int, object_path: str | None) -> int:
    """What a file counts against the quota of bytes: those outside the store take none of it."""
    return size_bytes if object_path is None else 0


def _key_of(session: ReadSession, project_id: str, sha256: str) -> str | None:
    same = and_(file_contents.c.project_id == project_id, file_contents.c.sha256 == sha256)
    found: str | None = session.value(select(file_contents.c.key).where(same))
    return found


def _visible(project_id: str) -> ColumnElement[bool]:
    unexpired = or_(files.c.expires_at.is_(None), files.c.expires_at > int(time.time()))
    return and_(files.c.project_id == project_id, unexpired)


def _listed() -> ColumnElement[bool]:
    return files.c.purpose.not_in(sorted(UNLISTED))


def _load(session: ReadSession, project_id: str, file_id: str) -> File:
    row = session.first(select(files).where(files.c.id == file_id, _visible(project_id)))
    if row is None:
        raise _no_such_file(file_id)
    return file_from_row(row)


def _load_any(session: ReadSession, file_id: str, *, archived_before: float | None = None) -> File:
    """A file of any project; NotFound also if its project is not archived since `archived_before`."""
    row = session.first(select(files).where(files.c.id == file_id))
    wanted = row is not None and (
        archived_before is None or is_archived_since(session, row.project_id, archived_before)
    )
    if row is None or not wanted:
        raise _no_such_file(file_id)
    return file_from_row(row)


def _no_such_file(file_id: str) -> NotFound:
    return NotFound(f"No such file: '{file_id[:64]}'. List those of your project with GET /v1/files.", param="file_id")


@contextmanager
def _found(file: File) -> Iterator[None]:
    """Raise NotFound where a file's object is gone, or its project may not read it any more."""
    try:
        yield
    except ObjectNotFound as error:
        raise _no_such_file(file.id) from error
    except LocationNotAllowed as error:
        raise NotFound(
            f"The file '{file.id}' is of an object that the project may not read any more. Ask an operator to allow its "
            "location (LLMARINER_FILE_LOCATIONS).",
            param="file_id",
            code="location_not_allowed",
        ) from error


def _with_first(first: bytes, rest: ObjectReader) -> Iterator[bytes]:
    """The parts, beginning with one that was read already; closes `rest` at the end."""
    try:
        if first:
            yield first
        with store_errors():
            yield from rest
    finally:
        rest.close()
