"""Objects below a prefix of an S3-compatible store: `s3://bucket/prefix`."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from llmariner.object_settings import S3Settings
from llmariner.platform.model_files import (
    ByteStream,
    FilesUnavailable,
    Listing,
    ObjectReplaced,
    RemoteFile,
    TransferInterrupted,
)
from llmariner.platform.objects.s3_clients import S3Clients

__all__ = ["S3Source"]

_LOCATION = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,62})/([^\0]{1,900})")
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_MAX_OBJECTS = 10_000
_REFUSALS = frozenset(
    {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "NoSuchKey", "404"}
)


class S3Source:
    """See `ModelSource`. The credentials are the platform's; `close` ends the connections.

    `clients`: those to use, where several sources share them.
    """

    def __init__(self, location: str, settings: S3Settings, clients: S3Clients | None = None) -> None:
        self.only = ""
        found = _LOCATION.fullmatch(location)
        if found is None:
            raise FilesUnavailable(f"'{location[:200]}' is no folder of an object store: write s3://bucket/folder.")
        self._location = location
        self._bucket, self._prefix = found[1], found[2].rstrip("/") + "/"
        self._presigned_seconds = settings.presigned_seconds
        self._clients = clients or S3Clients(settings)

    def close(self) -> None:
        """Close the connections."""
        self._clients.close()

    def list_files(self, is_wanted: Callable[[str], bool] = lambda _: True) -> Listing:
        """See the port. `is_wanted`: of paths; each of these files is a request."""
        with self._translated():
            pages = self._clients.client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            objects: list[dict[str, Any]] = []
            for page in pages:
                objects += page.get("Contents", ())
                if len(objects) > _MAX_OBJECTS:
                    raise FilesUnavailable(
                        f"'{self._location}' has over {_MAX_OBJECTS:,} objects; name a folder below it."
                    )
            # Consoles of stores create empty objects for folders.
            objects = [each for each in objects if not each["Key"].endswith("/")]
            found = [self._file(each) for each in objects if is_wanted(each["Key"].removeprefix(self._prefix))]
        if not objects:
            raise FilesUnavailable(f"There is nothing below '{self._location}'. Check the bucket and the folder.")
        return Listing(tuple(found))

    def open_range(self, file: RemoteFile, start: int, end: int) -> contextlib.AbstractContextManager[ByteStream]:
        """See the port."""
        return self._open_range(file, start, end)

    @contextlib.contextmanager
    def _open_range(self, file: RemoteFile, start: int, end: int) -> Iterator[ByteStream]:
        with self._translated():
            answer = self._clients.client.get_object(
                Bucket=self._bucket, Key=file.url, Range=f"bytes={start}-{end - 1}", IfMatch=file.version
            )
            with contextlib.closing(answer["Body"]) as body:
                yield body

    def named(self, path: str, version: str) -> RemoteFile:
        """The file at that path, of which each range must be of this version."""
        key = self._prefix + path
        with self._translated():
            head = self._clients.client.head_object(Bucket=self._bucket, Key=key, IfMatch=version)
        return RemoteFile(path, int(head["ContentLength"]), key, version=version)

    def signed_url(self, file: RemoteFile) -> str | None:
        """A presigned URL of a file, which allows GET alone. None unless the settings say how long it is valid."""
        if not self._presigned_seconds:
            return None
        parameters = {"Bucket": self._bucket, "Key": file.url}
        with self._translated():
            made = self._clients.public_client.generate_presigned_url(
                "get_object", parameters, ExpiresIn=self._presigned_seconds
            )
        return str(made)

    def _file(self, found: dict[str, Any]) -> RemoteFile:
        key, size, etag = str(found["Key"]), int(found["Size"]), str(found["ETag"])
        head = self._clients.client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        path = key.removeprefix(self._prefix)
        if head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT" and (digest := _hexadecimal(head)):
            return RemoteFile(path, size, key, sha256=digest, version=etag)
        # The ETag of an object that was uploaded in one part and is not encrypted with a key of its own is its MD5.
        plain = etag.strip('"')
        is_md5 = (
            _MD5.fullmatch(plain)
            and not head.get("SSECustomerAlgorithm")
            and head.get("ServerSideEncryption") != "aws:kms"
        )
        return RemoteFile(path, size, key, md5=plain if is_md5 else "", version=etag)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "an unknown error"))
            if code in _REFUSALS:
                raise FilesUnavailable(
                    f"The object store refuses '{self._location}' ({code}). Check the name, and that the platform's "
                    "credentials (LLMARINER_S3_ACCESS_KEY) may read it."
                ) from error
            if code in ("PreconditionFailed", "412"):
                raise ObjectReplaced("An object was replaced during the transfer.") from error
            raise TransferInterrupted(f"The object store answers with {code}.") from error
        except (BotoCoreError, HTTPError, OSError) as error:
            raise TransferInterrupted(f"The object store does not answer: {type(error).__name__}.") from error


def _hexadecimal(head: dict[str, Any]) -> str:
    try:
        digest = base64.b64decode(str(head.get("ChecksumSHA256", "")), validate=True)
    except binascii.Error:
        return ""
    return digest.hex() if len(digest) == 32 else ""
