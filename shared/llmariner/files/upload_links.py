"""Links to upload: tokens with which anybody may make one file, once, until they expire (decision 24).

A link that was used is a completed upload, whose id is the link's. Its row remains as long as a link may be valid, so that
no link makes a second file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from llmariner.audit import log
from llmariner.errors import Conflict, InvalidRequest, TransactionConflict
from llmariner.file_settings import FileSettings
from llmariner.files.file import File, NewFile
from llmariner.files.link_tokens import PARAMETER, LinkTokens, check_lifetime, maker_claims, read_maker
from llmariner.files.link_uses import LinkUses
from llmariner.files.purposes import Purpose
from llmariner.files.tables import uploads
from llmariner.files.upload import Status
from llmariner.files.upload_rows import COMPLETED, add_upload_event, load_upload
from llmariner.identifiers import new_id
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller

__all__ = ["OpenedUploadLink", "UploadLink", "UploadLinks", "UploadTerms", "withdraw_link"]

_SCOPE = "api.files.write"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class UploadTerms:
    """What may be uploaded. `size_bytes`, `sha256` (hex): those that the content must have; None: any.

    `max_bytes`: the most that it may have, at least `size_bytes`.
    """

    new: NewFile
    max_bytes: int
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class UploadLink:
    """A link to upload. Times are Unix seconds. Any holder of the `token` may use it."""

    id: str
    created_at: int
    expires_at: int
    token: str

    @property
    def path(self) -> str:
        """The path and query of its URL, for PUT."""
        return f"/v1/files:upload?{PARAMETER}={self.token}"


@dataclass(frozen=True)
class OpenedUploadLink:
    """A link that is valid now. `maker`: who made it, with the right to make its file and no other."""

    id: str
    created_at: int
    expires_at: int
    terms: UploadTerms
    maker: Caller
    claims: Mapping[str, Any]


class UploadLinks:
    """The links to upload of one installation. All methods block. `secrets` as those of `LinkTokens`."""

    def __init__(self, database: Database, settings: FileSettings, secrets: Sequence[Secret]) -> None:
        self._database = database
        self._settings = settings
        self._tokens = LinkTokens(secrets, "file_upload")
        self._uses = LinkUses(settings.link_requests_per_minute)

    @property
    def longest_seconds(self) -> int:
        """For which a link may be valid."""
        return self._settings.link_seconds

    def terms(
        self, new: NewFile, *, size_bytes: int | None = None, max_bytes: int | None = None, sha256: str | None = None
    ) -> UploadTerms:
        """The terms that a caller asks for. Raises InvalidRequest for sizes beyond the limit, and what is no SHA-256."""
        limit = self._settings.upload_bytes
        for name, value in (("bytes", size_bytes), ("max_bytes", max_bytes)):
            if value is not None and not 0 <= value <= limit:
                raise InvalidRequest(f"'{name}' must be from 0 to {limit}.", param=name, code="invalid_value")
        if size_bytes is not None and max_bytes is not None:
            raise InvalidRequest("Send 'bytes' or 'max_bytes', not both.", param="max_bytes", code="invalid_value")
        digest = None if sha256 is None else sha256.lower()
        if digest is not None and not _SHA256.fullmatch(digest):
            raise InvalidRequest(
                "'sha256' must be the SHA-256 of the file in 64 hexadecimal digits.",
                param="sha256",
                code="invalid_value",
            )
        largest = next(each for each in (size_bytes, max_bytes, limit) if each is not None)
        return UploadTerms(new, largest, size_bytes, digest)

    def create(self, caller: Caller, terms: UploadTerms, seconds: int) -> UploadLink:
        """A link that is valid for that time. Raises InvalidRequest for a time beyond the limit."""
        check_lifetime(seconds, self._settings.link_seconds)
        owner, link_id = caller.key_owner, new_id("upload")
        place = {"organization_id": owner.organization_id, "project_id": owner.project_id}

        def audit(session: WriteSession) -> int:
            now = int(session.now())
            data = {"filename": terms.new.filename, "purpose": terms.new.purpose.value, "expires_at": now + seconds}
            log.append_entry(session, caller, "upload.link.created", {"id": link_id, "data": data}, **place)
            return now

        now = self._database.transact(audit)
        claims = {"iat": now, "exp": now + seconds, "jti": link_id, **maker_claims(caller), **place}
        token = self._tokens.sign({**claims, **_terms_claims(terms)})
        return UploadLink(link_id, now, now + seconds, token)

    def is_signed(self, token: str) -> bool:
        """See `LinkTokens`."""
        return self._tokens.is_signed(token)

    def open(self, token: str) -> OpenedUploadLink:
        """The link with this token.

        Raises PermissionDenied for a text that is no link, for an expired one, and where its maker may not make files any
        more; Conflict for one that was used; RateLimited.
        """
        claims = self._tokens.verified(token)
        self._uses.admit(claims["jti"])
        with self._database.read() as session:
            self._tokens.check_time(claims, session.now())
            _check_unused(session, claims["jti"])
        maker = self._maker(claims)
        return OpenedUploadLink(claims["jti"], claims["iat"], claims["exp"], _terms(claims), maker, claims)

    def uploading(self, link: OpenedUploadLink) -> AbstractContextManager[None]:
        """For the time in which a body arrives by the link. Raises RateLimited where many do at once."""
        return self._uses.uploading(link.id)

    def check_still_allowed(self, link: OpenedUploadLink) -> None:
        """Raises PermissionDenied where the maker lost the right since the link was opened."""
        self._maker(link.claims)

    def record_use(self, session: WriteSession, link: OpenedUploadLink, file: File) -> None:
        """Record that the link made the file, in the transaction that makes it, as its last step.

        Raises Conflict where another request used the link.
        """
        place = {"organization_id": file.organization_id, "project_id": file.project_id}
        row = {
            "id": link.id,
            "created_at": link.created_at,
            "expires_at": link.expires_at,
            "ended_at": int(session.now()),
            "status": Status.COMPLETED,
            "filename": file.filename,
            "purpose": file.purpose,
            "content_type": file.content_type,
            "file_expires_after": link.terms.new.expires_after_seconds,
            "size_bytes": file.size_bytes,
            "file_id": file.id,
            **place,
        }
        if not session.insert_if_absent(uploads, [row]):
            _check_unused(session, link.id)
            raise TransactionConflict("The link is used by another request at the same time. Try again.")
        add_upload_event(session, COMPLETED, load_upload(session, file.project_id, link.id), file_id=file.id)
        log.append_entry(
            session, link.maker, "upload.link.used", {"id": link.id, "data": {"file_id": file.id}}, **place
        )

    def _maker(self, claims: Mapping[str, Any]) -> Caller:
        place = {"organization_id": claims["organization_id"], "project_id": claims["project_id"]}
        return read_maker(self._database, claims, **place, scope=_SCOPE)


def withdraw_link(session: WriteSession, link_id: str, new: NewFile, owner: Any, seconds: int) -> str | None:
    """Let a link make no file any more; returns the id of that which it has made, also a moment ago. Idempotent.

    `owner`: has `organization_id` and `project_id`. `seconds`: for which it was made.
    """
    now = int(session.now())
    row = {
        "id": link_id,
        "organization_id": owner.organization_id,
        "project_id": owner.project_id,
        "created_at": now,
        "expires_at": now + seconds,
        "ended_at": now,
        "status": Status.CANCELLED,
        "filename": new.filename,
        "purpose": new.purpose.value,
        "content_type": new.content_type,
        "size_bytes": 0,
    }
    if session.insert_if_absent(uploads, [row]):
        return None
    made: str | None = session.value(select(uploads.c.file_id).where(uploads.c.id == link_id))
    return made


def _check_unused(session: ReadSession, link_id: str) -> None:
    """Raises Conflict where the link was used, or withdrawn."""
    row = session.first(select(uploads.c.file_id).where(uploads.c.id == link_id))
    if row is not None and row.file_id is None:
        raise Conflict("The link was withdrawn: what it was made for has ended.", code="link_withdrawn")
    if row is not None:
        error = Conflict(
            f"The link was used: its file is '{row.file_id}'. Ask for another link to make another file.",
            code="link_used",
        )
        error.details["file_id"] = row.file_id
        raise error


def _terms_claims(terms: UploadTerms) -> dict[str, object]:
    new = terms.new
    claims = {
        "name": new.filename,
        "purpose": new.purpose.value,
        "type": new.content_type,
        "expiry": new.expires_after_seconds,
        "max": terms.max_bytes,
        "size": terms.size_bytes,
        "sha256": terms.sha256,
    }
    return {name: value for name, value in claims.items() if value is not None}


def _terms(claims: Mapping[str, Any]) -> UploadTerms:
    new = NewFile(claims["name"], Purpose(claims["purpose"]), claims["type"], claims.get("expiry"))
    return UploadTerms(new, claims["max"], claims.get("size"), claims.get("sha256"))
