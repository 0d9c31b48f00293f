"""Contents of model files in the object store, each once, as chunks: who stores one, how far it is, and its removal.

A chunk's object is written first and its row within the transaction that counts its bytes, by the holder of the content
alone: a holder that was presumed dead adds nothing, and its object is garbage.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, exists, select, update

from llmariner.models.copies.tables import model_blob_chunks, model_blobs, model_copy_files
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.model_files import RemoteFile
from llmariner.platform.model_files.resumable_digests import ResumableDigests
from llmariner.platform.objects import ObjectStore
from llmariner.platform.objects.garbage import collect

__all__ = ["BLOB_PREFIX", "GARBAGE_SECONDS", "HELD_SECONDS", "Blobs", "HeldBlob", "LostBlob"]

BLOB_PREFIX = "models/blobs/"
HELD_SECONDS = 120.0
"""How long a content stays with a process that shows no sign of life. Longer than a slice."""
_GRACE_SECONDS = 600.0
"""A content that nothing refers to stays this long after its last use: a copy that found it may refer to it next."""
_AT_ONCE = 100
_DELETED_AT_ONCE = 1000
GARBAGE_SECONDS = 86_400.0
"""Objects without a row are deleted that are older."""
_LISTED_AT_ONCE = 5000
# Most ids of contents are those of `RemoteFile.key`; the first covers them all.
_BEGINNINGS = ("", *(f"sha256-{digit}" for digit in "02468ace"))


class LostBlob(Exception):
    """Another process took the content over, or it is to be removed."""


@dataclass
class HeldBlob:
    """A content that this process may store. `stored_bytes`: from the beginning.

    `mismatches`: how often all its bytes were there, and were none of what its source says.
    """

    id: str
    stored_bytes: int
    digests: ResumableDigests
    mismatches: int


class Blobs:
    """The contents of one installation. `holder` identifies this process's slice. All methods block."""

    def __init__(self, database: Database, objects: Callable[[], ObjectStore], holder: str) -> None:
        self._database = database
        self._objects = objects
        self._holder = holder

    def hold(self, blob_id: str, file: RemoteFile) -> HeldBlob | None:
        """Take a file's content to store it; None while another process stores or removes it, and where it is stored."""
        blank = {"size": file.size, "state": "storing", "stored_bytes": 0, "digest_state": "", "sha256": ""}
        free = {"mismatches": 0, "holder": "", "held_until": 0.0, "touched_at": 0.0}
        with self._database.write() as session:
            session.insert_if_absent(model_blobs, [{"id": blob_id, **blank, **free}])
            row = session.first(select(model_blobs).where(model_blobs.c.id == blob_id).with_for_update())
            now = session.now()
            if row is None or row.state != "storing":
                return None
            # An expiry far in the future means that the clock was set back.
            if row.holder not in ("", self._holder) and now < row.held_until <= now + 2 * HELD_SECONDS:
                return None
            self._touch(session, blob_id, now, holder=self._holder)
        return HeldBlob(blob_id, row.stored_bytes, ResumableDigests(file, row.digest_state), row.mismatches)

    def release(self, blob: HeldBlob) -> None:
        """Let another process continue."""
        with self._database.write() as session:
            session.run(update(model_blobs).where(self._ours(blob.id)).values(holder="", held_until=0.0))

    def add(self, blob: HeldBlob, data: bytes) -> None:
        """Store the next bytes. Raises LostBlob, and ObjectStoreUnavailable."""
        key = f"{BLOB_PREFIX}{blob.id}/{blob.stored_bytes:016d}-{secrets.token_hex(8)}"
        with self._objects().writer(key) as writer:
            writer.write(data)
            writer.commit()
        blob.digests.update(data)
        stored = blob.stored_bytes + len(data)
        with self._database.write() as session:
            at = and_(self._ours(blob.id), model_blobs.c.stored_bytes == blob.stored_bytes)
            values = {"stored_bytes": stored, "digest_state": blob.digests.state}
            now = session.now()
            values |= {"held_until": now + HELD_SECONDS, "touched_at": now}
            if not session.run(update(model_blobs).where(at).values(**values)):
                raise LostBlob(blob.id)
            session.add(model_blob_chunks, blob_id=blob.id, start=blob.stored_bytes, size=len(data), object_key=key)
        blob.stored_bytes = stored

    def finish(self, blob: HeldBlob) -> str:
        """Mark a content that has all its bytes as stored; returns the name of its digest that differs, empty if none does.

        Where one differs, the content begins again. Files whose content is stored under another key refer to that. LostBlob.
        """
        sha256, wrong = blob.digests.finish()
        if wrong:
            self._begin_again(blob)
            return wrong
        with self._database.write() as session:
            done = {"state": "stored", "sha256": sha256, "digest_state": "", "holder": "", "held_until": 0.0}
            if not session.run(update(model_blobs).where(self._ours(blob.id)).values(**done)):
                raise LostBlob(blob.id)
            c = model_blobs.c
            same = and_(c.sha256 == sha256, c.state == "stored", c.id != blob.id)
            twin = session.first(select(c.id).where(same).order_by(c.id).limit(1).with_for_update())
            if twin is not None and self._touch(session, twin.id, session.now()):
                moved = update(model_copy_files).where(model_copy_files.c.blob_id == blob.id)
                session.run(moved.values(blob_id=twin.id))
        return ""

    def use_stored(self, session: WriteSession, blob_id: str) -> bool:
        """Whether a content is stored; it is not removed soon then, so that the caller may refer to it."""
        found = session.first(select(model_blobs.c.state).where(model_blobs.c.id == blob_id).with_for_update())
        return found is not None and found.state == "stored" and self._touch(session, blob_id, session.now())

    def remove_unused(self, *, seconds: float) -> int:
        """Remove contents that no file refers to, for so long; returns how many. The next call continues."""
        deadline, removed = time.monotonic() + seconds, 0
        while time.monotonic() < deadline and (found := self._removable()):
            for blob_id in found:
                if not self._remove(blob_id, deadline):
                    return removed
                removed += 1
        return removed

    def collect_garbage(self, *, seconds: float) -> int:
        """Delete old objects without a row, which killed processes left; returns how many.

        A pass begins at a random content, so that passes which end early cover all in the course of time.
        """
        older_than, deadline, deleted = time.time() - GARBAGE_SECONDS, time.monotonic() + seconds, 0
        after: str | None = f"{BLOB_PREFIX}{random.choice(_BEGINNINGS)}"
        while after is not None and time.monotonic() < deadline:
            found = collect(
                self._objects(), BLOB_PREFIX, self._referenced, older_than, after=after, limit=_LISTED_AT_ONCE
            )
            deleted, after = deleted + found.deleted, found.after
        return deleted

    def _referenced(self, keys: Sequence[str]) -> set[str]:
        query = select(model_blob_chunks.c.object_key).where(model_blob_chunks.c.object_key.in_(keys))
        with self._database.read() as session:
            return {row.object_key for row in session.rows(query)}

    def _removable(self) -> list[str]:
        c = model_blobs.c
        with self._database.write() as session:
            now = session.now()
            unused = ~exists().where(model_copy_files.c.blob_id == c.id)
            idle = and_(c.held_until < now, c.touched_at < now - _GRACE_SECONDS)
            some = select(c.id).where(c.state != "removing", unused, idle).limit(_AT_ONCE)
            ids = [row.id for row in session.rows(some)]
            if ids:
                session.run(update(model_blobs).where(c.id.in_(ids), unused, idle).values(state="removing"))
            going = session.rows(select(c.id).where(c.state == "removing").order_by(c.id).limit(_AT_ONCE))
        return [row.id for row in going]

    def _remove(self, blob_id: str, deadline: float) -> bool:
        """Delete the objects of a content and then its row; False where the time is over before."""
        while rows := self._some_chunks(blob_id):
            if time.monotonic() > deadline:
                return False
            self._objects().delete([row.object_key for row in rows])
            starts = [row.start for row in rows]
            c = model_blob_chunks.c
            with self._database.write() as session:
                session.run(delete(model_blob_chunks).where(c.blob_id == blob_id, c.start.in_(starts)))
        with self._database.write() as session:
            session.run(delete(model_blobs).where(model_blobs.c.id == blob_id, model_blobs.c.state == "removing"))
        return True

    def _some_chunks(self, blob_id: str) -> Sequence[Row[Any]]:
        c = model_blob_chunks.c
        with self._database.read() as session:
            return session.rows(select(c.start, c.object_key).where(c.blob_id == blob_id).limit(_DELETED_AT_ONCE))

    def _begin_again(self, blob: HeldBlob) -> None:
        """Forget the bytes of a content; their objects become garbage."""
        with self._database.write() as session:
            blank = {"stored_bytes": 0, "digest_state": "", "mismatches": blob.mismatches + 1}
            if not session.run(update(model_blobs).where(self._ours(blob.id)).values(**blank)):
                raise LostBlob(blob.id)
            session.run(delete(model_blob_chunks).where(model_blob_chunks.c.blob_id == blob.id))

    def _ours(self, blob_id: str) -> ColumnElement[bool]:
        c = model_blobs.c
        return and_(c.id == blob_id, c.holder == self._holder, c.state == "storing")

    def _touch(self, session: WriteSession, blob_id: str, now: float, **values: Any) -> bool:
        held = {"held_until": now + HELD_SECONDS} if "holder" in values else {}
        this = update(model_blobs).where(model_blobs.c.id == blob_id, model_blobs.c.state != "removing")
        return session.run(this.values(touched_at=now, **held, **values)) == 1


def chunks_of(session: ReadSession, blob_id: str) -> Iterator[tuple[int, int, str]]:
    """Start, size and key of the objects of a content, in order."""
    c = model_blob_chunks.c
    for row in session.rows(select(model_blob_chunks).where(c.blob_id == blob_id).order_by(c.start)):
        yield row.start, row.size, row.object_key
