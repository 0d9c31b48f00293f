"""`llma storage vector-stores add-files`: upload files and folders, add them, and show their ingestion until it ends."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.storage.vector_stores.chunk_options import chunk_options, chunking_strategy
from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.resolvers import complete_vector_stores, resolve_vector_store
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import write_stderr

if TYPE_CHECKING:
    from llmariner.cli.storage.files.uploads import Uploader
    from llmariner.cli.storage.vector_stores.added_files import AddedFiles
    from llmariner.cli.storage.vector_stores.ingestion_table import IngestionDisplay, IngestionRow
    from llmariner.cli.support.api import ApiClient

__all__ = ["add_files"]

POLL_SECONDS = 1.0
_POLLED_FILES = 8
"""Files whose state is asked for at a time, by turns."""

_POLL_RETRIES = 20
_STATUSES_OF_ONE_FILE = frozenset({400, 404, 409, 413, 422})
"""Refusals that concern one file; others would meet the next file too."""


@click.command("add-files", cls=Command)
@click.argument("store", metavar="NAME_OR_ID", shell_complete=complete_vector_stores)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--include",
    "patterns",
    metavar="PATTERN",
    multiple=True,
    help="Of folders, only names like *.pdf; repeat for several.",
)
@click.option(
    "--attribute",
    "attributes",
    metavar="KEY=VALUE",
    multiple=True,
    help="For filters; numbers, true and false are no text. Repeat for several.",
)
@chunk_options
@click.option("--no-wait", is_flag=True, help="End when all files are added, without waiting for their ingestion.")
@pass_session
def add_files(
    session: Session,
    store: str,
    paths: tuple[Path, ...],
    patterns: tuple[str, ...],
    attributes: tuple[str, ...],
    chunk_tokens: int | None,
    overlap_tokens: int | None,
    no_wait: bool,
) -> None:
    """Upload files and folders into a vector store.

    Of folders, hidden files are left out. A repeated command continues: what it uploaded before and is unchanged is not
    uploaded again.
    """
    from llmariner.cli.storage.files.local_files import files_below
    from llmariner.cli.storage.files.uploads import Uploader
    from llmariner.cli.storage.vector_stores.added_files import AddedFiles
    from llmariner.cli.storage.vector_stores.ingestion_table import IngestionRow, show_ingestion
    from llmariner.settings import environment

    options: dict[str, Any] = {}
    if attributes:
        options["attributes"] = dict(_attribute(each) for each in attributes)
    if strategy := chunking_strategy(chunk_tokens, overlap_tokens):
        options["chunking_strategy"] = strategy
    rows = [IngestionRow(file) for file in files_below(paths, patterns)]
    if not rows:
        raise click.UsageError("There are no files in these folders, other than hidden ones, that match.")
    api = session.api()
    found = resolve_vector_store(api, store)
    added = AddedFiles.of_store(environment(), session.target().endpoint, found["id"])
    with show_ingestion(rows, session.printer) as display:
        ingestion = _Ingestion(api, Uploader(api, session.target(), "assistants"), found["id"], options, added, display)
        try:
            ingestion.run(rows, wait=not no_wait)
        except KeyboardInterrupt:
            write_stderr(
                "What is added is still ingested; `llma storage vector-stores files` shows it. The same command continues."
            )
            raise
    _print(session, rows)


class _Ingestion:
    """Uploads, adds and follows files of one command."""

    def __init__(
        self,
        api: ApiClient,
        uploader: Uploader,
        store_id: str,
        options: dict[str, Any],
        added: AddedFiles,
        display: IngestionDisplay,
    ) -> None:
        self._api, self._uploader, self._store_id = api, uploader, store_id
        self._options, self._added, self._display = options, added, display
        self._pending: deque[IngestionRow] = deque()
        self._next_poll = 0.0
        self._poll_failures = 0

    def run(self, rows: Sequence[IngestionRow], *, wait: bool) -> None:
        """Returns when no file is left to upload, and with `wait` none in progress. CommandError ends it early."""
        for row in rows:
            self._add(row)
            self._display.show(row)
            if wait:
                self._poll()
        while wait and self._pending:
            time.sleep(max(0.0, self._next_poll - time.monotonic()))
            self._poll()
        for row in self._pending:
            row.step = "added"
            self._display.show(row)

    def _add(self, row: IngestionRow) -> None:
        known = self._added.file_id(row.file)
        if known is not None and self._is_known(row, known):
            return
        try:
            if not row.file_id:
                row.file_id = self._upload(row)
            self._attach(row)
        except CommandError as failure:
            if not _concerns_one_file(failure):
                failure.next_step = f"{failure.next_step} The same command continues with the rest."
                raise
            row.fail(failure.message)

    def _is_known(self, row: IngestionRow, file_id: str) -> bool:
        """Whether an earlier run added the file; one that it only uploaded is not uploaded again."""
        try:
            document = self._api.get(self._path(file_id))
        except CommandError as failure:
            if failure.code != ExitCode.NOT_FOUND:
                raise
            row.file_id = file_id if self._is_uploaded(file_id) else ""
            return False
        row.file_id = file_id
        if document.get("status") in ("failed", "cancelled"):
            self._api.delete(self._path(file_id))
            return False
        row.update(document)
        if document.get("status") == "completed":
            row.step = "unchanged"
        else:
            self._pending.append(row)
        return True

    def _is_uploaded(self, file_id: str) -> bool:
        from llmariner.cli.support.api import build_path

        try:
            self._api.get(build_path("files", file_id))
        except CommandError as failure:
            if failure.code != ExitCode.NOT_FOUND:
                raise
            return False
        return True

    def _upload(self, row: IngestionRow) -> str:
        row.step = "uploading"

        def report(sent: int) -> None:
            row.sent_bytes = sent
            self._display.show(row)

        file_id = str(self._uploader.upload(row.file, report)["id"])
        self._added.add(row.file, file_id)
        return file_id

    def _attach(self, row: IngestionRow) -> None:
        from llmariner.cli.support.api import build_path

        path = build_path("vector_stores", self._store_id, "files")
        try:
            document = self._api.post(path, {"file_id": row.file_id, **self._options})
        except CommandError as failure:
            if _concerns_one_file(failure):
                self._discard(row)
            raise
        row.update(document)
        if not row.is_final:
            self._pending.append(row)

    def _discard(self, row: IngestionRow) -> None:
        """Delete a file that no vector store took, so that a refusal leaves nothing behind."""
        from llmariner.cli.support.api import build_path

        with suppress(CommandError):
            self._api.delete(build_path("files", row.file_id))

    def _poll(self) -> None:
        if time.monotonic() < self._next_poll:
            return
        for _ in range(min(_POLLED_FILES, len(self._pending))):
            row = self._pending.popleft()
            try:
                row.update(self._api.get(self._path(row.file_id)))
                self._poll_failures = 0
            except CommandError as failure:
                self._handle_failed_poll(row, failure)
            if not row.is_final:
                self._pending.append(row)
            self._display.show(row)
        self._next_poll = time.monotonic() + POLL_SECONDS

    def _handle_failed_poll(self, row: IngestionRow, failure: CommandError) -> None:
        """Continue after a short failure of the network or the server: ingestion takes long, and does not depend on this."""
        self._poll_failures += 1
        if failure.code == ExitCode.NOT_FOUND:
            row.fail("it was taken out of the vector store, or deleted, meanwhile")
        elif failure.code not in (ExitCode.SERVER_ERROR, ExitCode.UNREACHABLE) or self._poll_failures > _POLL_RETRIES:
            failure.next_step = f"{failure.next_step} The same command continues."
            raise failure

    def _path(self, file_id: str) -> str:
        from llmariner.cli.support.api import build_path

        return build_path("vector_stores", self._store_id, "files", file_id)


def _concerns_one_file(failure: CommandError) -> bool:
    return failure.response is not None and failure.response.status in _STATUSES_OF_ONE_FILE


def _print(session: Session, rows: Sequence[IngestionRow]) -> None:
    from llmariner.cli.storage.vector_stores.ingestion_table import COLUMNS

    document = {"object": "list", "data": [row.document for row in rows if row.document is not None], "has_more": False}
    session.printer.print_records(document, [{"row": row} for row in rows], COLUMNS, empty="No files.")
    failed = [row for row in rows if row.step in ("failed", "cancelled")]
    if failed:
        first = failed[0]
        raise CommandError(
            ExitCode.REJECTED,
            f"{len(failed)} of {len(rows)} files are not in the vector store, first {first.file.path}: {first.error}",
            next_step="mend or leave out what failed; the same command adds only what is missing.",
        )


def _attribute(pair: str) -> tuple[str, str | float | bool]:
    """The key and the value: a number or boolean where it is one in JSON, quoted text without quotes, else the text."""
    key, equals, text = pair.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{pair!r} is not KEY=VALUE.")
    try:
        value = json.loads(text, parse_constant=lambda name: name)
    except ValueError:
        return key, text
    return key, value if isinstance(value, str | int | float | bool) else text
