"""Objects outside the platform's store that projects may make files of, without a copy: `s3://bucket/key`.

The platform's own credentials read them, so an operator lists the places that each project may name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from llmariner.errors import InvalidRequest
from llmariner.files.content import store_errors
from llmariner.platform.objects import ObjectInfo, ObjectNotFound, ObjectReader, ObjectStore, ObjectStoreUnavailable
from llmariner.weight_locations import location_error

__all__ = ["ExternalObjects", "LocationNotAllowed", "without_buckets"]

_SCHEME = "s3://"
_MAX_PATH = 1024
_BUCKETS = 32


class LocationNotAllowed(Exception):
    """An operator allowed the project to name the object once, and does so no more."""


class ExternalObjects:
    """`allowed`: prefixes, as `weight_locations` defines them. `open_bucket` returns the store of a bucket.

    `reserved`: the prefix of the platform's own objects, which nobody may name. All methods block and raise Unavailable.
    """

    def __init__(
        self, allowed: Sequence[str], open_bucket: Callable[[str], ObjectStore], *, reserved: str | None = None
    ) -> None:
        self._allowed = allowed
        self._open_bucket = lru_cache(_BUCKETS)(open_bucket)
        self._reserved = reserved

    def find(self, path: str, project_id: str) -> ObjectInfo:
        """The object that a project names. Raises InvalidRequest where it may not name it, and where there is none."""
        if len(path) > _MAX_PATH or not path.startswith(_SCHEME):
            raise _invalid(f"'object_path' must be '{_SCHEME}bucket/key', of at most {_MAX_PATH} characters.")
        if fault := location_error(path, self._allowed, project_id, use="make files of"):
            raise _invalid(f"{fault[0].upper()}{fault[1:]}. Ask an operator to allow it (LLMARINER_FILE_LOCATIONS).")
        if self._reserved is not None and path.startswith(self._reserved):
            raise _invalid(f"'{path[:200]}' belongs to the platform. Name an object of your project.")
        try:
            with store_errors():
                info = self._store(path).info(_key(path))
        except ValueError as error:
            raise _invalid(f"'{path[:200]}' names no object: it needs a bucket and a key.") from error
        if info is None:
            raise _invalid(f"There is no object '{path[:200]}'. Upload it there first.", code="object_not_found")
        return info

    def info(self, path: str, project_id: str) -> ObjectInfo:
        """Size and version of the object of a file.

        Raises ObjectNotFound; LocationNotAllowed where its project may not name it any more.
        """
        with store_errors():
            info = self._allowed_store(path, project_id).info(_key(path))
        if info is None:
            raise ObjectNotFound(path)
        return info

    def read(
        self, path: str, project_id: str, *, start: int, size: int | None, version: str | None = None
    ) -> ObjectReader:
        """The bytes of the object of a file, as `ObjectStore.read`. Raises LocationNotAllowed as `info`."""
        return self._allowed_store(path, project_id).read(_key(path), start, size, version)

    def _allowed_store(self, path: str, project_id: str) -> ObjectStore:
        own = self._reserved is not None and path.startswith(self._reserved)
        if own or location_error(path, self._allowed, project_id, use="make files of"):
            raise LocationNotAllowed(path)
        return self._store(path)

    def _store(self, path: str) -> ObjectStore:
        return self._open_bucket(path.removeprefix(_SCHEME).partition("/")[0])


def without_buckets(_bucket: str) -> ObjectStore:
    """For an installation whose store is not S3: no bucket can be read. Raises ObjectStoreUnavailable."""
    raise ObjectStoreUnavailable("the platform has no credentials of S3")


def _key(path: str) -> str:
    return path.removeprefix(_SCHEME).partition("/")[2]


def _invalid(message: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(message, param="object_path", code=code)
