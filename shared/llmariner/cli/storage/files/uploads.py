"""Sends a file to the platform: small ones by one form, others in parts that an interrupted command need not repeat."""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from llmariner.cli.storage.files.local_files import FileRange, LocalFile, file_changed
from llmariner.cli.storage.files.transfer_progress import Report
from llmariner.cli.storage.files.upload_records import UploadRecord, state_folder
from llmariner.cli.support.api import ApiClient, FileForm, build_path
from llmariner.cli.support.configuration import Target
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.terminal import write_stderr

__all__ = ["PART_BYTES", "Uploader"]

PART_BYTES = 32 * 1024 * 1024
"""The size of a part; the API takes 64 MB. It is what an interruption costs at most."""

_RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""The waits before a part is sent again after a failure of the connection or the server."""

_FINAL_STATUSES = frozenset({400, 404, 409, 410, 413, 422})
"""With these the server refuses the upload itself; with others the same request may succeed later."""


@dataclass(frozen=True)
class Uploader:
    """Uploads files for one purpose. `expires_in_seconds` after their creation they are deleted; None: never.

    A file of more than `part_bytes` goes in parts of that size.
    """

    api: ApiClient
    target: Target
    purpose: str
    expires_in_seconds: int | None = None
    part_bytes: int = PART_BYTES

    def upload(self, file: LocalFile, report: Report, *, restart: bool = False) -> dict[str, Any]:
        """The file object. `restart`: do not continue with an interrupted upload. CommandError."""
        if file.size <= self.part_bytes:
            return self._upload_by_form(file, report)
        from llmariner.settings import environment

        body = self._body(file)
        with UploadRecord.locked(state_folder(environment()), self.target, file, body) as record:
            parts = _UploadInParts(self.api, file, body, record, report, self.part_bytes)
            if restart and record.upload_id:
                parts.abandon()
            return parts.run()

    def _upload_by_form(self, file: LocalFile, report: Report) -> dict[str, Any]:
        fields = {"purpose": self.purpose}
        if self.expires_in_seconds is not None:
            fields |= {
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": str(self.expires_in_seconds),
            }
        with FileRange(file, 0, file.size, report) as content:
            return self.api.post_form("files", FileForm("file", file.name, _content_type(file), content, fields))

    def _body(self, file: LocalFile) -> dict[str, Any]:
        body: dict[str, Any] = {
            "filename": file.name,
            "bytes": file.size,
            "mime_type": _content_type(file),
            "purpose": self.purpose,
        }
        if self.expires_in_seconds is not None:
            body["expires_after"] = {"anchor": "created_at", "seconds": self.expires_in_seconds}
        return body


class _UploadInParts:
    """One upload of one file, with the record that survives this process."""

    def __init__(
        self,
        api: ApiClient,
        file: LocalFile,
        body: dict[str, Any],
        record: UploadRecord,
        report: Report,
        part_bytes: int,
    ) -> None:
        self._api, self._file, self._body, self._record, self._report = api, file, body, record, report
        self._part_bytes = part_bytes

    def run(self) -> dict[str, Any]:
        """The file object; begins again, once, where the server no longer takes an upload of an earlier run."""
        if self._record.upload_id:
            count = len(self._record.parts)
            write_stderr(
                f"Continuing with {self._record.upload_id}, of which {count} of {self._count()} parts are there."
            )
            try:
                return self._send()
            except CommandError as failure:
                if not _has_ended(failure):
                    raise
                write_stderr(f"The server no longer takes it ({failure.message}); beginning again.")
        self._begin()
        return self._send()

    def abandon(self) -> None:
        """Cancel the upload, where the server still has it, and forget it."""
        with suppress(CommandError):  # it expires by itself
            self._api.post(build_path("uploads", self._record.upload_id, "cancel"))
        self._record.discard()

    def _begin(self) -> None:
        self._record.part_bytes = self._part_bytes
        self._record.upload_id = str(self._api.post("uploads", self._body)["id"])
        self._record.save()

    def _send(self) -> dict[str, Any]:
        try:
            for number, start, size in self._ranges():
                if number not in self._record.parts:
                    self._record.parts[number] = self._send_part(start, size)
                    self._record.save()
                self._report(start + size)
            return self._complete()
        except KeyboardInterrupt:
            self._explain_resumption()
            raise
        except CommandError as failure:
            if _is_final(failure):
                self.abandon()
            elif self._record.is_saved:
                failure.next_step = f"{failure.next_step} {self._resumption()}"
            raise

    def _send_part(self, start: int, size: int) -> str:
        path = build_path("uploads", self._record.upload_id, "parts")
        for wait in (*_RETRY_SECONDS, None):
            try:
                with FileRange(self._file, start, size, self._report) as content:
                    form = FileForm("data", self._file.name, "application/octet-stream", content, {})
                    return str(self._api.post_form(path, form)["id"])
            except CommandError as failure:
                if wait is None or failure.code not in (ExitCode.SERVER_ERROR, ExitCode.UNREACHABLE):
                    raise
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _complete(self) -> dict[str, Any]:
        digest = self._file.md5()
        if not self._file.is_unchanged():
            self.abandon()
            raise file_changed(self._file)
        part_ids = [self._record.parts[number] for number, _, _ in self._ranges()]
        path = build_path("uploads", self._record.upload_id, "complete")
        answer = self._api.post(path, {"part_ids": part_ids, "md5": digest}, timeout_seconds=3600)
        self._record.discard()
        return dict(answer["file"])

    def _ranges(self) -> Iterator[tuple[int, int, int]]:
        part = self._record.part_bytes
        for number in range(self._count()):
            yield number, number * part, min(part, self._file.size - number * part)

    def _count(self) -> int:
        return -(-self._file.size // self._record.part_bytes)

    def _explain_resumption(self) -> None:
        if self._record.is_saved:
            write_stderr(self._resumption())

    def _resumption(self) -> str:
        return (
            f"The same command continues with upload {self._record.upload_id} for an hour after its beginning:"
            f" {len(self._record.parts)} of {self._count()} parts are there."
        )


def _is_final(failure: CommandError) -> bool:
    response = failure.response
    return response is not None and response.status in _FINAL_STATUSES and response.code != "upload_in_progress"


def _has_ended(failure: CommandError) -> bool:
    """Whether the server has no such upload, or it is cancelled or expired."""
    return _is_final(failure) and failure.response is not None and failure.response.status in (404, 409, 410)


def _content_type(file: LocalFile) -> str:
    return mimetypes.guess_type(file.name)[0] or "application/octet-stream"
