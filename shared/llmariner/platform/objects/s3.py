"""Objects in a bucket of an S3-compatible store.

An object of more than a part is a multipart upload: parts go out in parallel while the caller writes on. The number of
parts in flight is bounded for the process, and so is its memory. An upload that is not completed shows no object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

from llmariner.object_settings import S3Settings
from llmariner.platform.objects import (
    ObjectInfo,
    ObjectNotFound,
    ObjectStoreUnavailable,
    check_key,
    check_prefix,
    check_range,
)
from llmariner.platform.objects.s3_clients import S3Clients, UploadEnded, translated
from llmariner.platform.objects.s3_transfers import MAXIMUM_PARTS, PartQueue, S3Reader, S3Upload, S3Writer

__all__ = ["S3Objects"]

# Limits of S3: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MINIMUM_PART = 5 << 20
# A store that copies more may not answer in time.
_COPIED_AT_ONCE = 64 << 20
_DELETED_AT_ONCE = 1000
_LONGEST_KEY = 1024


class S3Objects:
    """The objects port on a bucket. Stores of several buckets or prefixes may share clients, which are slow to make."""

    def __init__(self, settings: S3Settings, clients: S3Clients | None = None, *, own: bool = True) -> None:
        """`own`: whether all keys are the platform's; those of another's bucket are any text."""
        self._settings = settings
        self._prefix = settings.prefix
        self._check_key = check_key if own else _check_foreign_key
        self._clients = clients or S3Clients(settings)
        self._parts = PartQueue(settings.parallel_parts)
        self._bucket = {"Bucket": settings.bucket}
        self._encryption: dict[str, str] = {}
        if settings.encryption:
            self._encryption["ServerSideEncryption"] = settings.encryption
        if settings.kms_key:
            self._encryption["SSEKMSKeyId"] = settings.kms_key

    def close(self) -> None:
        """End the threads of parts."""
        self._parts.close()

    def other_bucket(self, bucket: str) -> S3Objects:
        """The objects of another bucket of this store, with the same credentials and under any keys."""
        return S3Objects(replace(self._settings, bucket=bucket, prefix=""), self._clients, own=False)

    def writer(self, key: str) -> S3Writer:
        """A writer that creates or replaces the object."""
        target = {**self._bucket, "Key": self._prefix + self._check_key(key)}
        upload = S3Upload(self._clients.client, target, self._encryption, self._parts)
        return S3Writer(key, upload, self._settings.part_bytes)

    def read(self, key: str, start: int = 0, size: int | None = None, version: str | None = None) -> S3Reader:
        """The bytes from `start`, at most `size` of them. Raises ObjectNotFound."""
        check_range(start, size)
        target = {**self._bucket, "Key": self._prefix + self._check_key(key)}
        return S3Reader(self._clients.client, target, start, size, version)

    def info(self, key: str) -> ObjectInfo | None:
        """Size and time of an object; None if there is none."""
        target = {**self._bucket, "Key": self._prefix + self._check_key(key)}
        try:
            with translated(key):
                found = self._clients.client.head_object(**target)
        except ObjectNotFound:
            return None
        return ObjectInfo(key, found["ContentLength"], found["LastModified"].timestamp(), found["ETag"])

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """The objects whose keys begin with `prefix` and follow `after`, in ascending order of keys."""
        check_prefix(prefix)
        return self._list(prefix, after)

    def _list(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        begin = {"StartAfter": self._prefix + after} if after else {}
        pages = self._pages("list_objects_v2", Prefix=self._prefix + prefix, **begin)
        for found in (found for page in pages for found in page.get("Contents", ())):
            key = found["Key"].removeprefix(self._prefix)
            yield ObjectInfo(key, found["Size"], found["LastModified"].timestamp())

    def _pages(self, operation: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        pages = iter(self._clients.client.get_paginator(operation).paginate(**self._bucket, **parameters))
        while True:
            with translated(operation):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects. Missing ones are ignored."""
        found = iter(keys)
        while batch := [{"Key": self._prefix + self._check_key(key)} for key in islice(found, _DELETED_AT_ONCE)]:
            with translated(batch[0]["Key"]):
                answer = self._clients.client.delete_objects(**self._bucket, Delete={"Objects": batch, "Quiet": True})
            if errors := [error for error in answer.get("Errors", ()) if error.get("Code") != "NoSuchKey"]:
                raise ObjectStoreUnavailable(f"{len(errors)} objects were not deleted: {errors[0].get('Code')}.")

    def concatenate(self, key: str, parts: Sequence[str]) -> ObjectInfo:
        """Create an object of the bytes of others, in order. The store copies them, where S3's limits on parts allow it.

        Raises ObjectNotFound.
        """
        self._check_key(key)
        sources = [source for source in self._parts.map(self._existing, parts) if source.size]
        pieces = [(source.key, piece) for source in sources for piece in _pieces(source.size)]
        small = any(source.size < _MINIMUM_PART for source in sources[:-1])
        if not sources or small or len(pieces) > MAXIMUM_PARTS:
            return self._stream(key, sources)
        target = {**self._bucket, "Key": self._prefix + key}
        with S3Upload(self._clients.client, target, self._encryption, self._parts) as upload:
            for source, piece in pieces:
                upload.copy({**self._bucket, "Key": self._prefix + source}, piece)
            return ObjectInfo(key, sum(source.size for source in sources), upload.complete())

    def _stream(self, key: str, sources: Sequence[ObjectInfo]) -> ObjectInfo:
        with self.writer(key) as writer:
            for source in sources:
                for data in self.read(source.key):
                    writer.write(data)
            return writer.commit()

    def _existing(self, key: str) -> ObjectInfo:
        found = self.info(key)
        if found is None:
            raise ObjectNotFound(key)
        return found

    def discard_unfinished(self, prefix: str, before: float) -> int:
        """Abort uploads that began before that time and got no part since. Returns how many there were."""
        discarded = 0
        for page in self._pages("list_multipart_uploads", Prefix=self._prefix + check_prefix(prefix)):
            for found in page.get("Uploads", ()):
                if found["Initiated"].timestamp() < before and self._abort(found["Key"], found["UploadId"], before):
                    discarded += 1
        return discarded

    def signed_download(self, key: str, *, content_type: str, content_disposition: str) -> str | None:
        """A presigned URL, which allows GET only. None unless the settings say how long it is valid."""
        parameters = {
            **self._bucket,
            "Key": self._prefix + self._check_key(key),
            "ResponseContentType": content_type,
            "ResponseContentDisposition": content_disposition,
        }
        if not (seconds := self._settings.presigned_seconds):
            return None
        with translated(key):
            url: str = self._clients.public_client.generate_presigned_url("get_object", parameters, ExpiresIn=seconds)
        return url

    def _abort(self, key: str, upload_id: str, before: float) -> bool:
        """Abort an upload whose last part is older. False if it is not, or has ended meanwhile."""
        upload = {"Key": key, "UploadId": upload_id}
        try:
            for page in self._pages("list_parts", **upload):
                if any(part["LastModified"].timestamp() >= before for part in page.get("Parts", ())):
                    return False
            with translated(key):
                self._clients.client.abort_multipart_upload(**self._bucket, **upload)
        except UploadEnded:
            return False
        return True


def _pieces(size: int) -> Sequence[str]:
    """The ranges by which an object of that size is copied: of about equal size, so that none is too small for a part."""
    count = -(-size // _COPIED_AT_ONCE)
    bounds = [size * number // count for number in range(count + 1)]
    return [f"bytes={begin}-{end - 1}" for begin, end in pairwise(bounds)]


def _check_foreign_key(key: str) -> str:
    """Return the key. Raises ValueError for one that S3 or a client of HTTP takes for another: `a/../b`."""
    if not 0 < len(key.encode(errors="replace")) <= _LONGEST_KEY or not key.isprintable():
        raise ValueError(f"{key[:200]!r} is not a key: keys are 1 to {_LONGEST_KEY} bytes of printable text.")
    if {"", ".", ".."} & set(key.split("/")):
        raise ValueError(f"{key[:200]!r} is not a key: it has an empty name, or one of dots, between its slashes.")
    return key
