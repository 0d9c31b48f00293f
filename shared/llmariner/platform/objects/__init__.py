"""The objects port: bytes under keys, streamed both ways. Every process holds a bounded part of an object in memory.

Keys are made by the platform (`files/<id>`), never of callers' text. Names, types and owners belong in the database.
A key is never given to a second object, and no key is a folder of another (`files` beside `files/<id>`).

Adapters: `folder` (a folder of one machine), `s3` (an S3-compatible store).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "ObjectInfo",
    "ObjectNotFound",
    "ObjectReader",
    "ObjectStore",
    "ObjectStoreUnavailable",
    "ObjectWriter",
    "check_key",
    "check_prefix",
    "check_range",
]

READ_BYTES = 1 << 20
_KEY = re.compile(r"(?!.{513})[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,199})*", re.ASCII)


class ObjectNotFound(Exception):
    """There is no object with that key."""


class ObjectStoreUnavailable(Exception):
    """The store does not answer, is full, or refuses the platform's credentials. The operation may be repeated."""


@dataclass(frozen=True)
class ObjectInfo:
    """`size`: bytes. `modified_at`: Unix seconds. `version`: a text that differs for other bytes, of `info` only."""

    key: str
    size: int
    modified_at: float
    version: str = ""


class ObjectReader(Iterator[bytes], Protocol):
    """The bytes of an object, in parts of at most 1 MiB. Replacing or deleting the object does not change them."""

    def close(self) -> None:
        """Release file or connection; the end of the bytes does it as well. Idempotent."""


class ObjectWriter(Protocol):
    """Writes one object. It becomes visible, whole, when `commit` returns; until then an object of that key is unchanged.

    A context manager: leaving it without `commit` discards what was written. One thread at a time.
    """

    def __enter__(self) -> ObjectWriter:
        """Start writing."""

    def __exit__(self, *_: object) -> None:
        """Discard what was written, unless it was committed."""

    def write(self, data: bytes) -> None:
        """Append bytes; blocks while the store is slower than the caller. Raises ObjectStoreUnavailable."""

    def commit(self) -> ObjectInfo:
        """Make the object visible and durable. Raises ObjectStoreUnavailable; the outcome is then unknown."""


class ObjectStore(Protocol):
    """All methods block, are safe in any thread, and raise ObjectStoreUnavailable. ValueError: no valid key or range."""

    def writer(self, key: str) -> ObjectWriter:
        """A writer that creates or replaces the object."""

    def read(self, key: str, start: int = 0, size: int | None = None, version: str | None = None) -> ObjectReader:
        """The bytes from `start`, at most `size` of them. Raises ObjectNotFound, before the first byte.

        `version`: that of `info`; ObjectStoreUnavailable where the object was replaced since.
        """

    def info(self, key: str) -> ObjectInfo | None:
        """Size and time of an object; None if there is none."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with `prefix` and follow `after`, in ascending order of keys."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects. Missing ones are ignored."""

    def concatenate(self, key: str, parts: Sequence[str]) -> ObjectInfo:
        """Create an object of the bytes of others, in order, where possible inside the store. Raises ObjectNotFound."""

    def discard_unfinished(self, prefix: str, before: float) -> int:
        """Free what writers left that ended without commit and wrote nothing since `before` (Unix seconds).

        Returns how many there were.
        """

    def signed_download(self, key: str, *, content_type: str, content_disposition: str) -> str | None:
        """A URL at which anybody may read the object for a short time, with these headers, and which cannot be revoked.

        None where the store has no such URLs, or is not to give any out.
        """


def check_key(key: str) -> str:
    """Return the key. Raises ValueError unless it is at most 512 characters of names, separated by slashes."""
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"{key!r} is not a key of an object: keys are names such as files/file_1, made by the platform."
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return the prefix. Raises ValueError unless it is empty or what stands before its last slash is a key."""
    if "/" in prefix:
        check_key(prefix.rpartition("/")[0])
    return prefix


def check_range(start: int, size: int | None) -> None:
    """Raises ValueError for a negative start or size."""
    if start < 0 or (size is not None and size < 0):
        raise ValueError(f"A range has a start and a size of at least 0, not {start} and {size}.")
