"""Uploads: files that arrive in parts, with OpenAI's states. Each transition has one writer.

    pending ── complete ──► completed
       ├────── cancel ────► cancelled
       └────── an hour ───► expired    (of a job's, an hour without a part)

The object of a part is written before its row and deleted after it. A process that is killed in between leaves an object
without a row, which the sweep collects (`referenced`), and never a row without bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from sqlalchemy import delete, func, not_, or_, select, update

from llmariner.errors import BodyTooLarge, Conflict, InvalidRequest, NotFound, Unavailable
from llmariner.file_settings import FileSettings
from llmariner.files.bytes_in_flight import BytesInFlight, CountedContent
from llmariner.files.content import NOTHING_STORED, store_errors
from llmariner.files.file import NewFile
from llmariner.files.purposes import UPLOADED
from llmariner.files.quotas import reserve_quota
from llmariner.files.tables import upload_parts, uploads
from llmariner.files.upload import Part, Status, Upload, part_key
from llmariner.files.upload_rows import (
    CANCELLED,
    CREATED,
    EXPIRED,
    add_upload_event,
    check_pending,
    end_upload,
    is_claimed,
    load_upload,
    lock_for_end,
    no_such_upload,
)
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.objects import ObjectStore, ObjectStoreUnavailable
from llmariner.tenancy.principal import KeyOwner

__all__ = ["IncomingPart", "Uploads"]

_MAX_PARTS = 10_000
"""As many as an S3-compatible store can join in one object."""

_BATCH = 100
# As long as a link to upload may be valid, which must find that it was used.
_RETENTION_SECONDS = 7 * 86400
_log = logging.getLogger(__name__)
CheckCaller = Callable[[WriteSession], object]


class IncomingPart:
    """Writes a part to an object that `Uploads.add_part` makes visible. A context manager; one thread at a time.

    `counted` is released at the end.
    """

    def __init__(self, objects: ObjectStore, upload_id: str, *, limit_bytes: int, counted: CountedContent) -> None:
        self.id = new_id("part")
        self.upload_id = upload_id
        self.key = part_key(upload_id, self.id)
        self.size_bytes = 0
        self._writer = objects.writer(self.key)
        self._limit = limit_bytes
        self._counted = counted

    def __enter__(self) -> IncomingPart:
        try:
            with store_errors(NOTHING_STORED):
                self._writer.__enter__()
        except BaseException:
            self._counted.release()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._writer.__exit__(*raised)
        finally:
            self._counted.release()

    def write(self, data: bytes) -> None:
        """Append bytes. Raises BodyTooLarge for more than a part of this upload may have, and as `receive_part`."""
        self.size_bytes += len(data)
        if self.size_bytes > self._limit:
            raise BodyTooLarge(
                f"A part of this upload has at most {self._limit} bytes. Send the rest as further parts.", param="data"
            )
        self._counted.grow(self.size_bytes)
        with store_errors(NOTHING_STORED):
            self._writer.write(data)

    def commit(self) -> None:
        """Make the object visible and durable. Raises Unavailable."""
        with store_errors(NOTHING_STORED):
            self._writer.commit()

    def release(self) -> None:
        """Do not count the bytes as in flight any more: the transaction that follows counts those of the part."""
        self._counted.release()


class Uploads:
    """The uploads of one installation, except their completion (`upload_completion`).

    All methods block. They raise NotFound for an upload of another project, and Unavailable while the database or the object
    store does not answer.
    """

    def __init__(self, database: Database, objects: ObjectStore, settings: FileSettings) -> None:
        self._database = database
        self._objects = objects
        self._settings = settings
        self._in_flight = BytesInFlight()

    def create(
        self, owner: KeyOwner, new: NewFile, size_bytes: int, check_caller: CheckCaller = lambda _: None
    ) -> Upload:
        """Create a pending upload. Until it ends, it counts against the project's quota as the file that it becomes.

        `check_caller` is called as the first step of the transaction; it raises Conflict for one who may not do this any
        more. Raises InvalidRequest for a size over the limit, InsufficientQuota.
        """
        limit = self._settings.upload_bytes
        if not 0 <= size_bytes <= limit:
            raise InvalidRequest(
                f"'bytes' must be the size of the file, from 0 to {limit}.", param="bytes", code="invalid_value"
            )
        place = {"organization_id": owner.organization_id, "project_id": owner.project_id}
        upload_id = new_id("upload")

        def insert(session: WriteSession) -> Upload:
            check_caller(session)
            reserve_quota(session, self._settings, **place, files=1, size_bytes=size_bytes)
            now = int(session.now())
            session.add(
                uploads,
                **place,
                id=upload_id,
                created_at=now,
                expires_at=now + self._settings.upload_seconds,
                status=Status.PENDING,
                filename=new.filename,
                purpose=new.purpose,
                content_type=new.content_type,
                file_expires_after=new.expires_after_seconds,
                size_bytes=size_bytes,
            )
            upload = load_upload(session, owner.project_id, upload_id)
            add_upload_event(session, CREATED, upload)
            return upload

        return self._database.transact(insert)

    def check_of_caller(self, owner: KeyOwner, upload_id: str) -> None:
        """Raises NotFound also for an upload that a job makes, which nobody else adds to, completes or cancels."""
        with self._database.read() as session:
            upload = load_upload(session, owner.project_id, upload_id)
        if upload.new_file.purpose not in UPLOADED:
            raise no_such_upload(upload_id)

    def receive_part(self, owner: KeyOwner, upload_id: str) -> IncomingPart:
        """Begin a part; `add_part` adds it. Raises Conflict unless the upload is pending, InvalidRequest after too many.

        Raises Unavailable while so many others arrive in this process that there is no room for it besides them.
        """

        def check(size_bytes: int, others: int) -> None:
            with self._database.read() as session:
                upload = load_upload(session, owner.project_id, upload_id)
                check_pending(session, upload)
                _check_room(session, upload, size_bytes, others)

        with self._database.read() as session:
            limit = load_upload(session, owner.project_id, upload_id).size_bytes
        counted = CountedContent(self._in_flight, upload_id, check)
        counted.grow(0)
        limit = min(self._settings.upload_part_bytes, limit)
        return IncomingPart(self._objects, upload_id, limit_bytes=limit, counted=counted)

    def renew(self, owner: KeyOwner, upload_id: str) -> None:
        """Let the time of a pending upload begin again: of a job's, which ends with the job. Raises Conflict."""

        def extend(session: WriteSession) -> None:
            upload = load_upload(session, owner.project_id, upload_id, lock=True)
            check_pending(session, upload)
            until = int(session.now()) + self._settings.upload_seconds
            session.run(update(uploads).where(uploads.c.id == upload.id).values(expires_at=until))

        self._database.transact(extend)

    def add_part(self, owner: KeyOwner, incoming: IncomingPart) -> Part:
        """Add a received part. Raises as `receive_part`, also for an empty one; its object is then deleted.

        After another exception the object remains, since the transaction may have been committed.
        """
        if not incoming.size_bytes:
            raise InvalidRequest("The part is empty: send its bytes as 'data'.", param="data", code="empty_part")
        incoming.commit()
        incoming.release()

        def insert(session: WriteSession) -> Part:
            upload = load_upload(session, owner.project_id, incoming.upload_id, lock=True)
            check_pending(session, upload)
            _check_room(session, upload, incoming.size_bytes)
            part = Part(incoming.id, upload.id, int(session.now()), incoming.size_bytes)
            place = {"organization_id": upload.organization_id, "project_id": upload.project_id}
            columns = {"id": part.id, "created_at": part.created_at, "size_bytes": part.size_bytes}
            session.add(upload_parts, **place, **columns, upload_id=upload.id)
            return part

        try:
            return self._database.transact(insert)
        except (Conflict, InvalidRequest, NotFound):
            self.delete_objects([incoming.key])
            raise

    def cancel(self, owner: KeyOwner, upload_id: str, check_caller: CheckCaller = lambda _: None) -> Upload:
        """Cancel a pending upload; one that is cancelled remains so. Raises Conflict for a completed or expired one.

        A completion that is under way then ends with Conflict. `check_caller`: as of `create`.
        """

        def end(session: WriteSession) -> tuple[Upload, list[str]]:
            check_caller(session)
            upload = lock_for_end(session, owner.project_id, upload_id)
            if upload.status is Status.CANCELLED:
                return upload, []
            check_pending(session, upload)
            keys = end_upload(session, upload, Status.CANCELLED)
            add_upload_event(session, CANCELLED, upload)
            return load_upload(session, owner.project_id, upload_id), keys

        upload, keys = self._database.transact(end)
        self.delete_objects(keys)
        return upload

    def expire(self, *, seconds: float = 60.0) -> int:
        """End the pending uploads whose time is over, except those whose completion is under way; returns the number.

        For the sweep. It ends after that many seconds; the next sweep continues.
        """
        expired, until = 0, time.monotonic() + seconds
        while True:
            with self._database.read() as session:
                now = session.now()
                unclaimed = or_(uploads.c.claimed_until.is_(None), not_(is_claimed(now)))
                over = select(uploads.c.id, uploads.c.project_id).where(
                    uploads.c.status == Status.PENDING, uploads.c.expires_at <= int(now), unclaimed
                )
                rows = session.rows(over.order_by(uploads.c.expires_at).limit(_BATCH))
            expired += sum(self._expire(row.project_id, row.id) for row in rows)
            if len(rows) < _BATCH or time.monotonic() > until:
                return expired

    def prune(self, *, seconds: float = 60.0) -> int:
        """Delete the rows of uploads that ended a week ago; returns the number. It ends as `expire`. For the sweep."""
        pruned, until = 0, time.monotonic() + seconds
        while True:
            with self._database.write() as session:
                before = int(session.now()) - _RETENTION_SECONDS
                rows = session.rows(select(uploads.c.id).where(uploads.c.ended_at < before).limit(_BATCH))
                session.run(delete(uploads).where(uploads.c.id.in_([row.id for row in rows])))
            pruned += len(rows)
            if len(rows) < _BATCH or time.monotonic() > until:
                return pruned

    def referenced(self, keys: Sequence[str]) -> set[str]:
        """Which of these keys are the objects of parts; the other objects are garbage."""
        ids = [key.rpartition("/")[2] for key in keys]
        query = select(upload_parts.c.id, upload_parts.c.upload_id).where(upload_parts.c.id.in_(ids))
        with self._database.read() as session:
            return {part_key(row.upload_id, row.id) for row in session.rows(query)} & set(keys)

    def delete_objects(self, keys: Sequence[str]) -> None:
        """Delete objects without a row. A failure leaves garbage, which the sweep collects."""
        try:
            if keys:
                self._objects.delete(keys)
        except ObjectStoreUnavailable as error:
            _log.warning("objects without a row remain until the sweep: %s", error)

    def _expire(self, project_id: str, upload_id: str) -> bool:
        def end(session: WriteSession) -> list[str] | None:
            upload = lock_for_end(session, project_id, upload_id)
            claimed = session.first(select(uploads.c.id).where(uploads.c.id == upload.id, is_claimed(session.now())))
            if upload.status is not Status.PENDING or claimed is not None or session.now() < upload.expires_at:
                return None  # it ended, or was renewed, meanwhile
            keys = end_upload(session, upload, Status.EXPIRED)
            add_upload_event(session, EXPIRED, upload)
            return keys

        keys = self._database.transact(end)
        self.delete_objects(keys or [])
        return keys is not None


def _check_room(session: ReadSession, upload: Upload, size_bytes: int, others: int = 0) -> None:
    """Raises InvalidRequest where the parts would be too many, or have twice the bytes that the upload needs.

    Raises Unavailable where they would with those of `others`, which are in flight. Each part may thus be sent again once,
    which a client does when it did not get the response.
    """
    sums = select(func.count().label("parts"), func.coalesce(func.sum(upload_parts.c.size_bytes), 0).label("bytes"))
    [row] = session.rows(sums.where(upload_parts.c.upload_id == upload.id))
    total = row.bytes + size_bytes
    full = None
    if row.parts >= _MAX_PARTS:
        full = f"The upload has {row.parts} parts, the maximum"
    elif total > 2 * upload.size_bytes:
        full = f"The parts of the upload would have {total} bytes, more than twice its size"
    if full:
        raise InvalidRequest(
            f"{full}. Complete it with those that arrived, or cancel it.", param="upload_id", code="too_many_parts"
        )
    if total + others > 2 * upload.size_bytes:
        raise Unavailable(
            "The parts of the upload that arrive now would have more than twice its size with this one. Send it again when "
            "they have arrived.",
            headers={"retry-after": "5"},
        )
