"""The objects port: bytes under keys, streamed both ways. Every process holds a bounded part of an object in memory.

Keys are made by the platform (`files/<id>`), never of callers' text. Names, types and owners belong in the database.

Adapters: `folder` (a folder of one machine), `s3` (an S3-compatible store).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["ObjectInfo", "ObjectNotFound", "ObjectStore", "ObjectStoreUnavailable", "ObjectWriter"]


class ObjectNotFound(Exception):
    """There is no object with that key."""


class ObjectStoreUnavailable(Exception):
    """The store does not answer, or refuses the platform's credentials. The operation may be repeated."""


@dataclass(frozen=True)
class ObjectInfo:
    """`size`: bytes. `modified_at`: Unix seconds."""

    key: str
    size: int
    modified_at: float


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
    """All methods block, are safe in any thread, and raise ObjectStoreUnavailable."""

    def writer(self, key: str) -> ObjectWriter:
        """A writer that creates or replaces the object."""

    def read(self, key: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """The bytes from `start`, at most `size` of them, in parts of at most 1 MiB. Raises ObjectNotFound."""

    def info(self, key: str) -> ObjectInfo | None:
        """Size and time of an object; None if there is none."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with `prefix` and follow `after`, in ascending order of keys."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects. Missing ones are ignored."""

    def concatenate(self, key: str, parts: Sequence[str]) -> ObjectInfo:
        """Create an object of the bytes of others, in order, where possible inside the store. Raises ObjectNotFound."""

    def download_url(self, key: str, *, seconds: int, file_name: str, content_type: str) -> str | None:
        """A URL that anybody may read the object from for that time; None where the store has none."""

    def upload_url(self, key: str, *, seconds: int, size: int) -> str | None:
        """A URL that anybody may PUT exactly `size` bytes to for that time; None where the store has none."""
