"""Bytes to and from S3: a reader that resumes, and a writer that sends parts in parallel with bounded memory."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from botocore.exceptions import ClientError, FlexibleChecksumError

from llmariner.platform.objects import READ_BYTES, ObjectInfo, ObjectNotFound, ObjectStoreUnavailable
from llmariner.platform.objects.s3_clients import UploadEnded, response_time, translated

__all__ = ["MAXIMUM_PARTS", "PartQueue", "S3Reader", "S3Upload", "S3Writer"]

_log = logging.getLogger(__name__)

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
MAXIMUM_PARTS = 10_000
_RESUMED_AT_MOST = 3
Result = TypeVar("Result")
_CHECKSUMS = ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256")


class S3Reader:
    """Reads an object. After a lost connection it continues where it was, if the object is still the same."""

    def __init__(
        self, client: Any, target: dict[str, Any], start: int, size: int | None, version: str | None = None
    ) -> None:
        """`version`: the ETag that the object must have."""
        self._client = client
        self._target = target
        self._position = start
        self._end = None if size is None else start + size
        self._tag = version
        self._resumed = 0
        self._body: Any = self._open()

    def __iter__(self) -> S3Reader:
        return self

    def __next__(self) -> bytes:
        while self._body is not None:
            try:
                with translated(self._target["Key"]):
                    data: bytes = self._body.read(READ_BYTES)
            except ObjectStoreUnavailable as error:
                self._resume(error)
                continue
            if not data:
                self.close()
                break
            self._position += len(data)
            if len(data) == READ_BYTES:
                self._resumed = 0
            return data
        raise StopIteration

    def close(self) -> None:
        """Close the connection."""
        if self._body is not None:
            self._body.close()
            self._body = None

    def __del__(self) -> None:
        if getattr(self, "_body", None) is not None:
            self._body.close()

    def _open(self) -> Any:
        """The response's body from the position; None if there is nothing."""
        with translated(self._target["Key"]):
            if self._position == self._end:
                self._client.head_object(**self._target)
                return None
            last = "" if self._end is None else self._end - 1
            whole = self._position == 0 and self._end is None
            conditions = {} if whole else {"Range": f"bytes={self._position}-{last}"}
            if self._tag is not None:
                conditions["IfMatch"] = self._tag
            try:
                answer = self._client.get_object(**self._target, **conditions)
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code")
                if code in ("InvalidRange", "416"):
                    return None
                if code in ("PreconditionFailed", "412"):
                    raise ObjectStoreUnavailable("The object was replaced while it was read.") from error
                raise
        if self._tag not in (None, answer["ETag"]):
            answer["Body"].close()
            raise ObjectStoreUnavailable("The object was replaced while it was read.")
        self._tag = answer["ETag"]
        return answer["Body"]

    def _resume(self, error: ObjectStoreUnavailable) -> None:
        self.close()
        # All bytes have arrived, and they are not those that were stored.
        if isinstance(error.__cause__, FlexibleChecksumError) or self._resumed == _RESUMED_AT_MOST:
            raise error
        self._resumed += 1
        try:
            self._body = self._open()
        except ObjectNotFound:
            raise ObjectStoreUnavailable("The object was deleted while it was read.") from error


class PartQueue:
    """Sends parts in threads. A caller waits while as many as allowed are in flight, in all uploads together."""

    def __init__(self, parallel: int) -> None:
        self._free = threading.BoundedSemaphore(parallel)
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="s3-part")

    def close(self) -> None:
        """End the threads when their calls have ended."""
        self._pool.shutdown()

    def submit(self, send: Callable[[], Result]) -> Future[Result]:
        """Start a call; blocks while too many are in flight."""
        self._free.acquire()
        try:
            future = self._pool.submit(send)
        except BaseException:
            self._free.release()
            raise
        future.add_done_callback(lambda _: self._free.release())
        return future

    def map(self, function: Callable[[str], ObjectInfo], keys: Iterable[str]) -> Iterator[ObjectInfo]:
        """The results of a function for each key, in order. Other uploads take turns with the calls."""
        started: deque[Future[ObjectInfo]] = deque()
        for key in keys:
            started.append(self.submit(partial(function, key)))
            while started and started[0].done():
                yield started.popleft().result()
        for future in started:
            yield future.result()


class S3Upload:
    """A multipart upload, which begins with its first part. A context manager: leaving it incomplete aborts it."""

    def __init__(self, client: Any, target: dict[str, Any], encryption: dict[str, str], queue: PartQueue) -> None:
        self._client = client
        self._target = target
        self._encryption = encryption
        self._queue = queue
        self._upload_id = ""
        self._parts: list[Future[dict[str, Any]]] = []
        # Those that were not seen to arrive: no more than the queue has in flight.
        self._in_flight: list[Future[dict[str, Any]]] = []

    def __enter__(self) -> S3Upload:
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts:
            # A part that arrives after the abort would stay in the store.
            if not part.cancel():
                part.exception()
        self._parts.clear()
        self._in_flight.clear()
        if self._upload_id:
            try:
                with contextlib.suppress(UploadEnded), translated(self._target["Key"]):
                    self._client.abort_multipart_upload(**self._target, UploadId=self._upload_id)
            except ObjectStoreUnavailable as error:
                _log.warning("an unfinished upload stays in the store until it is discarded: %s", error)
            self._upload_id = ""

    def put(self, data: bytes | bytearray) -> float:
        """Store the whole object, if no part was added. Returns the time of the store."""
        with translated(self._target["Key"]):
            return response_time(self._client.put_object(**self._target, **self._encryption, Body=data))

    def add(self, data: bytes | bytearray) -> None:
        """Add a part. Raises the error of an earlier one."""
        self._send(lambda numbered: _tags(self._client.upload_part(**numbered, Body=data)))

    def copy(self, source: dict[str, Any], piece: str) -> None:
        """Add a range of another object as a part. Raises the error of an earlier one."""

        def send(numbered: dict[str, Any]) -> dict[str, Any]:
            answer = self._client.upload_part_copy(**numbered, CopySource=source, CopySourceRange=piece)
            return _tags(answer["CopyPartResult"])

        self._send(send)

    @property
    def has_parts(self) -> bool:
        """Whether a part was added."""
        return bool(self._parts)

    def complete(self) -> float:
        """Make the object of its parts. Returns the time of the store."""
        with translated(self._target["Key"]):
            parts = [{**part.result(), "PartNumber": number} for number, part in enumerate(self._parts, 1)]
            answer = self._client.complete_multipart_upload(
                **self._target, UploadId=self._upload_id, MultipartUpload={"Parts": parts}
            )
        self._upload_id = ""
        return response_time(answer)

    def _send(self, send: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        number = len(self._parts) + 1
        if number > MAXIMUM_PARTS:
            raise ObjectStoreUnavailable(
                f"An object has at most {MAXIMUM_PARTS} parts. Set LLMARINER_S3_PART_BYTES to more for larger objects."
            )
        with translated(self._target["Key"]):
            if not self._upload_id:
                begun = self._client.create_multipart_upload(**self._target, **self._encryption)
                self._upload_id = begun["UploadId"]
            self._in_flight = [part for part in self._in_flight if not _has_arrived(part)]
        numbered = {**self._target, "UploadId": self._upload_id, "PartNumber": number}
        part = self._queue.submit(lambda: send(numbered))
        self._parts.append(part)
        self._in_flight.append(part)


def _has_arrived(part: Future[dict[str, Any]]) -> bool:
    """Whether a part is in the store. Raises its error."""
    return part.done() and bool(part.result())


def _tags(answer: dict[str, Any]) -> dict[str, Any]:
    """What the completion of an upload repeats of the answer to a part."""
    return {name: answer[name] for name in ("ETag", *_CHECKSUMS) if name in answer}


class S3Writer:
    """Collects bytes to parts. An object that is not larger than one part takes one request."""

    def __init__(self, key: str, upload: S3Upload, part_bytes: int) -> None:
        self._key = key
        self._upload = upload
        self._part_bytes = part_bytes
        self._buffer = bytearray()
        self._size = 0
        self._open = False

    def __enter__(self) -> S3Writer:
        self._open = True
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._buffer = bytearray()
        self._upload.__exit__()

    def write(self, data: bytes) -> None:
        """Append bytes; blocks while too many parts are in flight."""
        self._check()
        view = memoryview(data)
        self._size += len(view)
        while view:
            if len(self._buffer) == self._part_bytes:
                self._upload.add(self._buffer)
                self._buffer = bytearray()
            room = self._part_bytes - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]

    def commit(self) -> ObjectInfo:
        """Send the rest and complete the object."""
        self._check()
        if not self._upload.has_parts:
            modified_at = self._upload.put(self._buffer)
        else:
            if self._buffer:
                self._upload.add(self._buffer)
            modified_at = self._upload.complete()
        self._open = False
        return ObjectInfo(self._key, self._size, modified_at)

    def _check(self) -> None:
        if not self._open:
            raise ValueError("The writer is not open: use it in a with statement, and not after commit.")
