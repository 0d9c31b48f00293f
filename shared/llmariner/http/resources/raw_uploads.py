"""The body of PUT /v1/files:upload: the bytes of one file, straight into the object store."""

from __future__ import annotations

from contextlib import ExitStack

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.files.content import IncomingContent
from llmariner.files.file import File
from llmariner.files.upload_links import UploadTerms
from llmariner.http.authorization.links import UploadAccess
from llmariner.platform.database import WriteSession
from llmariner.tenancy.long_requests import check_still_allowed

__all__ = ["RawUpload"]


class RawUpload:
    """Receives a file that keeps to `terms`; `close` discards its content unless `save` made the file.

    `size_bytes`: as far as it is known before, else 0. All methods block.
    """

    def __init__(self, context: Context, access: UploadAccess, terms: UploadTerms, *, size_bytes: int) -> None:
        self._context = context
        self._access = access
        self._terms = terms
        self._size_bytes = min(size_bytes, terms.max_bytes)
        self._opened = ExitStack()
        self._content: IncomingContent | None = None

    def close(self) -> None:
        """Discard what was not saved."""
        self._opened.close()

    def begin(self) -> None:
        """Begin the content, before its first byte. Raises InsufficientQuota, Unavailable, as `UploadLinks.uploading`."""
        if self._access.link is not None:
            self._opened.enter_context(self._context.upload_links.uploading(self._access.link))
        receive = self._context.files.receive(
            self._access.caller.key_owner,
            purpose=self._terms.new.purpose,
            size_bytes=self._size_bytes,
            limit_bytes=self._terms.max_bytes,
        )
        self._content = self._opened.enter_context(receive)

    def write(self, data: bytes) -> None:
        """The next bytes. Raises as `IncomingContent.write`."""
        self._begun.write(data)

    def save(self) -> File:
        """Make the file, and record that the link was used.

        Raises PermissionDenied or AuthenticationFailed for a caller that lost the right meanwhile, InvalidRequest for bytes
        that the terms exclude, Conflict where another request used the link, and as `Files.save`.
        """
        caller, content = self._access.caller, self._begun
        if self._access.link is None:
            check_still_allowed(self._context.database, caller, "api.files.write")
        else:
            self._context.upload_links.check_still_allowed(self._access.link)
        self._check(content)
        return self._context.files.save(caller.key_owner, self._terms.new, content, self._finish)

    def _check(self, content: IncomingContent) -> None:
        size, sha256 = self._terms.size_bytes, self._terms.sha256
        if size not in (None, content.size_bytes):
            raise InvalidRequest(
                f"The file has {content.size_bytes} bytes, and {size} are expected. Nothing was stored.",
                code="size_mismatch",
            )
        if sha256 not in (None, content.sha256):
            raise InvalidRequest(
                f"The file has the SHA-256 {content.sha256}, and {sha256} is expected. Nothing was stored.",
                code="checksum_mismatch",
            )

    def _finish(self, session: WriteSession, file: File) -> None:
        if self._access.link is not None:
            self._context.upload_links.record_use(session, self._access.link, file)

    @property
    def _begun(self) -> IncomingContent:
        assert self._content is not None
        return self._content
