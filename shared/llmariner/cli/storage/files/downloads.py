"""Writes a file of the platform to a file of this machine, or to standard output.

Content arrives in a partial file beside the final name, which it takes when it is complete. The partial file's name has
the id and the ETag of the content, so that another run continues with it, and never joins parts of different content.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from llmariner.cli.storage.files.local_files import safe_file_name
from llmariner.cli.storage.files.transfer_progress import Report, show_transfer
from llmariner.cli.support.api import ApiClient, Download, build_path
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.output import format_bytes
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import OutputStream, write_stderr

__all__ = ["download_to_file", "download_to_stdout"]

_STALLED_SECONDS = 60.0
_RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""The waits before a broken download continues; they start again with each byte that arrives."""


def download_to_file(session: Session, file_id: str, path: Path, *, replace: bool) -> None:
    """Download to a file, or into a folder with the file's own name; `replace`: even where a file is. CommandError."""
    api = session.api()
    document = api.get(build_path("files", file_id))
    final = path / safe_file_name(str(document.get("filename") or ""), file_id) if path.is_dir() else path
    _check_final(final, replace=replace)
    with show_transfer(session, final.name, _size(document)) as report:
        transfer = _Transfer(api, file_id, _size(document), final, report)
        try:
            partial = transfer.run()
        except KeyboardInterrupt:
            write_stderr(transfer.resumption())
            raise
    _check_final(final, replace=replace)
    partial.replace(final)
    session.printer.print_message(document, f"Downloaded {file_id} to {final} ({format_bytes(_size(document))}).")


def download_to_stdout(session: Session, file_id: str) -> None:
    """Write the content to standard output: exact, but without control characters on a terminal. CommandError."""
    path = build_path("files", file_id, "content")
    output = OutputStream(sys.stdout)
    with session.api().download_from(path, 0, stalled_seconds=_STALLED_SECONDS) as download:
        for chunk in download.chunks:
            output.write(chunk)


class _Transfer:
    """Fills the partial file of one download."""

    def __init__(self, api: ApiClient, file_id: str, size: int, final: Path, report: Report) -> None:
        self._api, self._path, self._size, self._report = api, build_path("files", file_id, "content"), size, report
        self._folder = final.parent
        self._prefix = f".{safe_file_name(file_id, 'file')}-"
        self._partial = self._find_partial()

    def run(self) -> Path:
        """The path of the complete partial file."""
        waits, most = iter(_RETRY_SECONDS), self._received()
        while True:
            received = self._received()
            if self._partial is not None and received == self._size:
                return self._partial
            try:
                with self._api.download_from(self._path, received, stalled_seconds=_STALLED_SECONDS) as download:
                    self._write(download)
                if self._received() < self._size:
                    raise self._wrong_size()
            except CommandError as failure:
                if self._received() > most:
                    waits, most = iter(_RETRY_SECONDS), self._received()
                wait = next(waits, None)
                if wait is None or failure.code not in (ExitCode.SERVER_ERROR, ExitCode.UNREACHABLE):
                    failure.next_step = f"{failure.next_step} {self.resumption()}".strip()
                    raise
                time.sleep(wait)

    def resumption(self) -> str:
        """A sentence about what another run need not repeat; empty if it must begin again."""
        received = format_bytes(self._received())
        return (
            f"The same command continues: {received} of {format_bytes(self._size)} are in {self._partial}."
            if self._partial
            else ""
        )

    def _write(self, download: Download) -> None:
        start, partial = download.start, self._partial_for(download.etag)
        if start and (partial != self._partial or start != self._received()):
            self._discard()  # other content than that of the first part, or another range: from the beginning
            return
        if partial != self._partial:
            self._discard()
        self._partial = partial
        with self._open(partial, start) as out:
            for chunk in download.chunks:
                if start + len(chunk) > self._size:
                    self._discard()
                    raise self._wrong_size()
                out.write(chunk)
                start += len(chunk)
                self._report(start)

    def _open(self, partial: Path, start: int) -> BinaryIO:
        """The file, opened to write from `start`; never through a link, which somebody else may have put there."""
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise CommandError(
                ExitCode.USAGE, f"another llma writes {partial} already.", next_step="wait for it, or end it."
            ) from error
        except OSError as error:
            raise CommandError(
                ExitCode.USAGE,
                f"{partial} cannot be written: {error.strerror}.",
                next_step="name another place with --file.",
            ) from error
        out = os.fdopen(descriptor, "wb")
        out.truncate(start)
        out.seek(start)
        return out

    def _find_partial(self) -> Path | None:
        with suppress(OSError):
            pattern = re.compile(re.escape(self._prefix) + r"[0-9a-f]{16}\.part")
            found = [each for each in self._folder.iterdir() if pattern.fullmatch(each.name) and not each.is_symlink()]
            return max(found, key=lambda each: each.stat().st_size, default=None)
        return None

    def _partial_for(self, etag: str) -> Path:
        return self._folder / f"{self._prefix}{hashlib.sha256(etag.encode()).hexdigest()[:16]}.part"

    def _received(self) -> int:
        size = self._partial.stat().st_size if self._partial and self._partial.exists() else 0
        if size > self._size:
            self._discard()
            return 0
        return size

    def _discard(self) -> None:
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)
        self._partial = None

    def _wrong_size(self) -> CommandError:
        return CommandError(
            ExitCode.SERVER_ERROR,
            f"the server sent another number of bytes than the {self._size} it announced.",
            next_step="run the same command again.",
        )


def _size(document: Mapping[str, Any]) -> int:
    size = document.get("bytes")
    if isinstance(size, str) and size.isdigit():  # protobuf JSON encodes 64-bit integers so
        size = int(size)
    if not isinstance(size, int) or size < 0:
        raise CommandError(
            ExitCode.SERVER_ERROR,
            "the server says no size of the file.",
            next_step="check --endpoint; compare `llma version` with the server's.",
        )
    return size


def _check_final(final: Path, *, replace: bool) -> None:
    if (final.exists() or final.is_symlink()) and not replace:
        raise CommandError(
            ExitCode.USAGE, f"{final} is there already.", next_step="name another file with --file, or give --force."
        )
    if final.exists() and not final.is_file():
        raise CommandError(
            ExitCode.USAGE,
            f"{final} is not a regular file.",
            next_step="name another file with --file, or - for a pipe.",
        )
