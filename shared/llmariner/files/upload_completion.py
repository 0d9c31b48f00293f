"""The completion of an upload: its parts are checked and joined to the content of a new file.

The work takes up to minutes. One completion of an upload at a time may do it: it claims the upload and renews its claim
while it works. Parts do not change, so what was checked is what is joined. The last transaction makes the file and ends the
upload, or neither; what a killed completion leaves is an object without a row, which the sweep collects.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import and_, select, update

from llmariner.errors import Conflict, InsufficientQuota, InvalidRequest, NotFound, PlatformError
from llmariner.files.content import new_content_key, store_errors
from llmariner.files.file import File, StoredContent
from llmariner.files.files import Files
from llmariner.files.purposes import content_check
from llmariner.files.tables import uploads
from llmariner.files.upload import Part, Status, Upload
from llmariner.files.upload_rows import (
    CLAIM_SECONDS,
    COMPLETED,
    add_upload_event,
    check_pending,
    end_upload,
    is_claimed,
    load_upload,
    lock_for_end,
    parts_of,
)
from llmariner.files.uploads import Uploads
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.objects import ObjectNotFound, ObjectStore
from llmariner.tenancy.principal import KeyOwner

__all__ = ["UploadCompletion"]

_MD5 = re.compile(r"[0-9a-f]{32}")
_RETRY_SECONDS = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Claim:
    """A pending upload that this completion has claimed, and its parts in the order of the request."""

    id: str
    upload: Upload
    parts: Sequence[Part]
    digest: str


class UploadCompletion:
    """Completes uploads. Its methods block."""

    def __init__(self, database: Database, objects: ObjectStore, files: Files, uploads: Uploads) -> None:
        self._database = database
        self._objects = objects
        self._files = files
        self._uploads = uploads

    def complete(
        self,
        owner: KeyOwner,
        upload_id: str,
        part_ids: Sequence[str],
        md5: str | None = None,
        *,
        sha256: str | None = None,
        check_caller: Callable[[], None] = lambda: None,
    ) -> tuple[Upload, File]:
        """Make the file of the parts, in their order. The request that completed an upload gets its result again.

        `check_caller` is called before the file is made; it raises a PlatformError for one who may not do this any more.

        Raises NotFound; Conflict unless the upload is pending, or while another completion is under way; InvalidRequest for
        parts that are unknown, repeated or of another total size, for another MD5 or SHA-256 (hex), and for content that the
        purpose excludes. The upload remains pending then. Raises Unavailable; the same request may be repeated.
        """
        expected_md5 = _normal_md5(md5)
        digest = hashlib.sha256(json.dumps([list(part_ids), expected_md5]).encode()).hexdigest()
        claim = self._database.transact(lambda session: _claim(session, owner, upload_id, part_ids, digest))
        if isinstance(claim, Upload):
            return claim, self._file_of(claim)
        try:
            with self._renewing(claim), store_errors():
                found = self._check_content(claim, expected_md5)
                if sha256 not in (None, found):
                    raise InvalidRequest(
                        f"The parts in this order have the SHA-256 {found}, not that of the file.",
                        code="checksum_mismatch",
                    )
                stored = self._join(claim, found)
            return self._finish(owner, claim, stored, check_caller)
        except ObjectNotFound:
            self._refuse_ended(claim.upload)
            raise
        finally:
            self._release(claim)

    def _check_content(self, claim: _Claim, expected_md5: str | None) -> str:
        """The SHA-256 of the parts' bytes, in hex. Raises InvalidRequest for another MD5, or invalid content."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        check = content_check(claim.upload.new_file.purpose)
        for part in claim.parts:
            for data in self._objects.read(part.key):
                sha256.update(data)
                if expected_md5 is not None:
                    md5.update(data)
                if check is not None:
                    check.feed(data)
        if check is not None:
            check.finish()
        if expected_md5 not in (None, md5.hexdigest()):
            raise InvalidRequest(
                f"The parts in this order have the MD5 {md5.hexdigest()}, not {expected_md5}. Send the order in which they "
                "make the file, or send the wrong parts again.",
                param="md5",
                code="md5_mismatch",
            )
        return sha256.hexdigest()

    def _join(self, claim: _Claim, sha256: str) -> StoredContent:
        key = new_content_key()
        if not claim.parts:
            with self._objects.writer(key) as writer:
                writer.commit()
        else:
            self._objects.concatenate(key, [part.key for part in claim.parts])
        return StoredContent(key, claim.upload.size_bytes, sha256)

    def _finish(
        self, owner: KeyOwner, claim: _Claim, stored: StoredContent, check_caller: Callable[[], None]
    ) -> tuple[Upload, File]:
        """Make the file and end the upload. Raises Conflict where the upload ended meanwhile, or the claim is lost."""

        def end(session: WriteSession) -> tuple[Upload, File, list[str]]:
            upload = lock_for_end(session, owner.project_id, claim.upload.id)
            holder = session.value(select(uploads.c.claim).where(uploads.c.id == upload.id))
            if upload.status is not Status.PENDING:
                check_pending(session, upload)
            if holder != claim.id:
                raise _in_progress()
            # The quota of the upload is free before that of the file is taken.
            keys = end_upload(session, upload, Status.COMPLETED, request_digest=claim.digest)
            file = self._files.insert(session, owner, upload.new_file, stored)
            session.run(update(uploads).where(uploads.c.id == upload.id).values(file_id=file.id))
            add_upload_event(session, COMPLETED, upload, file_id=file.id)
            return load_upload(session, owner.project_id, upload.id), file, keys

        try:
            check_caller()
        except PlatformError:
            self._uploads.delete_objects([stored.key])
            raise
        try:
            upload, file, keys = self._database.transact(end)
        except (Conflict, InsufficientQuota, NotFound):
            self._uploads.delete_objects([stored.key])
            raise
        superfluous = [] if file.content_key == stored.key else [stored.key]
        self._uploads.delete_objects([*keys, *superfluous])
        return upload, file

    def _file_of(self, upload: Upload) -> File:
        """The file of a completed upload. Raises Conflict if it was deleted."""
        try:
            return self._files.get(upload.project_id, str(upload.file_id))
        except NotFound as error:
            raise Conflict(
                f"The upload was completed, and its file '{upload.file_id}' was deleted since. Create another one.",
                param="upload_id",
                code="upload_completed",
            ) from error

    def _refuse_ended(self, upload: Upload) -> None:
        """Raises Conflict where an upload has ended, which deletes its parts."""
        with self._database.read() as session:
            check_pending(session, load_upload(session, upload.project_id, upload.id))

    @contextmanager
    def _renewing(self, claim: _Claim) -> Iterator[None]:
        """Renew the claim while the block runs."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(CLAIM_SECONDS / 4):
                try:
                    self._set_claim(claim, renew=True)
                except PlatformError as error:
                    _log.warning("the claim of %s was not renewed: %s", claim.upload.id, error.message)

        thread = threading.Thread(target=renew, name=f"renew {claim.upload.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _release(self, claim: _Claim) -> None:
        """Let the next attempt claim the upload at once; where that fails, the claim ends by itself."""
        try:
            self._set_claim(claim, renew=False)
        except PlatformError as error:
            _log.warning("the claim of %s was not released: %s", claim.upload.id, error.message)

    def _set_claim(self, claim: _Claim, *, renew: bool) -> None:
        ours = and_(uploads.c.id == claim.upload.id, uploads.c.claim == claim.id)
        with self._database.write() as session:
            until = session.now() + CLAIM_SECONDS if renew else None
            session.run(update(uploads).where(ours).values(claimed_until=until))


def _claim(
    session: WriteSession, owner: KeyOwner, upload_id: str, part_ids: Sequence[str], digest: str
) -> _Claim | Upload:
    """Claim a pending upload; the upload itself if the same request completed it already."""
    upload = load_upload(session, owner.project_id, upload_id, lock=True)
    if upload.status is Status.COMPLETED and upload.request_digest == digest:
        return upload
    check_pending(session, upload)
    now = session.now()
    if session.first(select(uploads.c.id).where(uploads.c.id == upload.id, is_claimed(now))) is not None:
        raise _in_progress()
    parts = _ordered_parts(session, upload, part_ids)
    claim = _Claim(new_id("claim"), upload, parts, digest)
    held = {"claim": claim.id, "claimed_until": now + CLAIM_SECONDS}
    session.run(update(uploads).where(uploads.c.id == upload.id).values(**held))
    return claim


def _ordered_parts(session: ReadSession, upload: Upload, part_ids: Sequence[str]) -> list[Part]:
    """The parts of a request. Raises InvalidRequest for unknown or repeated ones, and for another total size."""
    arrived = {part.id: part for part in parts_of(session, upload)}
    seen: set[str] = set()
    for index, part_id in enumerate(part_ids):
        if part_id not in arrived:
            raise InvalidRequest(
                f"The upload has no part '{part_id[:64]}': send it with POST /v1/uploads/{upload.id}/parts.",
                param=f"part_ids[{index}]",
                code="part_not_found",
            )
        if part_id in seen:
            raise InvalidRequest(
                f"The part '{part_id}' is named twice: name each part once, in the order of the file.",
                param=f"part_ids[{index}]",
                code="duplicate_part",
            )
        seen.add(part_id)
    total = sum(arrived[part_id].size_bytes for part_id in part_ids)
    if total != upload.size_bytes:
        raise InvalidRequest(
            f"The parts have {total} bytes together, and the upload was created for {upload.size_bytes}. Name all parts of "
            "the file; where the size was wrong, create another upload.",
            param="part_ids",
            code="size_mismatch",
        )
    return [arrived[part_id] for part_id in part_ids]


def _normal_md5(md5: str | None) -> str | None:
    """The MD5 in lower case. Raises InvalidRequest unless it is one, in hex."""
    normal = None if md5 is None else md5.strip().lower()
    if normal is not None and not _MD5.fullmatch(normal):
        raise InvalidRequest(
            "'md5' must be the MD5 of the file in 32 hexadecimal digits.", param="md5", code="invalid_value"
        )
    return normal


def _in_progress() -> Conflict:
    error = Conflict(
        "The upload is being completed by another request. Send this one again in a moment.",
        param="upload_id",
        code="upload_in_progress",
    )
    error.headers = {"retry-after": str(_RETRY_SECONDS), "x-should-retry": "true"}
    return error
