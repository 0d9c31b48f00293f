"""The content of a file while it arrives: written to a new object, hashed and checked, with bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from llmariner.errors import BodyTooLarge, InvalidRequest, PlatformError, Unavailable
from llmariner.files.bytes_in_flight import CountedContent
from llmariner.files.file import StoredContent
from llmariner.files.purposes import ContentCheck, Purpose, content_check
from llmariner.identifiers import new_id
from llmariner.platform.objects import ObjectStore, ObjectStoreUnavailable

__all__ = ["CONTENT_PREFIX", "NOTHING_STORED", "IncomingContent", "new_content_key", "store_errors"]

CONTENT_PREFIX = "files/"
NOTHING_STORED = "; nothing was stored"
"""The outcome for `store_errors` of content that arrives."""
_CHECKED = (Purpose.BATCH, Purpose.FINE_TUNE, Purpose.VISION)


def new_content_key() -> str:
    """The key of a new object for the content of files."""
    return CONTENT_PREFIX + new_id("content")


@contextmanager
def store_errors(outcome: str = "") -> Iterator[None]:
    """Raise Unavailable where the object store does not answer. `outcome`: what the message says of the request."""
    try:
        yield
    except ObjectStoreUnavailable as error:
        raise Unavailable(
            f"The store of files does not answer{outcome}. Try again.", headers={"retry-after": "2"}
        ) from error


class IncomingContent:
    """Writes content to an object that becomes visible with `commit`. A context manager; one thread at a time.

    `purpose` None: it follows the content in the form, so the content is checked for each purpose until one error.
    `limit_bytes`: BodyTooLarge for more. `counted` is released at the end.
    Raises Unavailable while the object store does not answer.
    """

    def __init__(
        self, objects: ObjectStore, *, purpose: Purpose | None, limit_bytes: int, counted: CountedContent
    ) -> None:
        self.size_bytes = 0
        self._limit = limit_bytes
        self._counted = counted
        self._hash = hashlib.sha256()
        self._key = new_content_key()
        self._writer = objects.writer(self._key)
        self._stored: StoredContent | None = None
        self._purpose = purpose
        wanted = _CHECKED if purpose is None else (purpose,)
        self._checks: dict[Purpose, ContentCheck] = {
            each: check for each in wanted if (check := content_check(each)) is not None
        }
        self._errors: dict[Purpose, PlatformError] = {}

    def __enter__(self) -> IncomingContent:
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

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes so far, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Append bytes. Raises InvalidRequest where they cannot be content of the purpose, InsufficientQuota."""
        self.size_bytes += len(data)
        if self.size_bytes > self._limit:
            raise BodyTooLarge(
                f"The file has more than {self._limit} bytes, the maximum of a form. Send it in parts: POST /v1/uploads.",
                param="file",
            )
        self._counted.grow(self.size_bytes)
        for purpose in list(self._checks):
            try:
                self._checks[purpose].feed(data)
            except InvalidRequest as error:
                self._fail(purpose, error)
        self._hash.update(data)
        with store_errors(NOTHING_STORED):
            self._writer.write(data)

    def check(self, purpose: Purpose) -> None:
        """Check the whole content. Raises InvalidRequest where it is none of the purpose."""
        if purpose in self._errors:
            raise self._errors[purpose]
        if purpose in self._checks:
            self._checks[purpose].finish()

    def commit(self) -> StoredContent:
        """Make the object visible and durable; a second call returns the first one's result."""
        if self._stored is None:
            with store_errors(NOTHING_STORED):
                self._writer.commit()
            self._stored = StoredContent(self._key, self.size_bytes, self.sha256)
        return self._stored

    def release(self) -> None:
        """Do not count the bytes as in flight any more: the transaction that follows counts those of the file."""
        self._counted.release()

    def _fail(self, purpose: Purpose, error: InvalidRequest) -> None:
        if self._purpose is not None:
            raise error
        self._errors[purpose] = error
        del self._checks[purpose]
