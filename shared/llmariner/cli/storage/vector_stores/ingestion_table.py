"""The progress of files on their way into a vector store: a live table on a terminal, else a line per file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmariner.cli.storage.files.local_files import LocalFile
from llmariner.cli.support.output import Column, Printer
from llmariner.cli.support.terminal import write_stderr

if TYPE_CHECKING:
    from rich.live import Live

__all__ = ["COLUMNS", "IngestionDisplay", "IngestionRow", "show_ingestion"]

_REFRESH_SECONDS = 0.2
_FINAL_STEPS = ("completed", "failed", "cancelled", "unchanged", "added")


@dataclass
class IngestionRow:
    """One file. `step`: waiting, uploading, the status of a file of a vector store, unchanged, or added (not awaited).

    `document`: the vector store's file object, once there is one.
    """

    file: LocalFile
    step: str = "waiting"
    file_id: str = ""
    sent_bytes: int = 0
    chunks: str = ""
    error: str = ""
    document: Mapping[str, Any] | None = None

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to it."""
        return self.step in _FINAL_STEPS

    def update(self, document: Mapping[str, Any]) -> None:
        """Take the state from the vector store's file object."""
        progress = document.get("progress") or {}
        indexed, total = progress.get("chunks_indexed"), progress.get("chunks")
        self.document = document
        self.step = str(document.get("status"))
        self.chunks = "" if total is None else f"{total}" if self.step == "completed" else f"{indexed} of {total}"
        self.error = str((document.get("last_error") or {}).get("message") or "")

    def fail(self, message: str) -> None:
        """The file cannot be uploaded or added."""
        self.step, self.error = "failed", message


def _step(row: Mapping[str, Any]) -> str:
    file: IngestionRow = row["row"]
    step = str(((file.document or {}).get("progress") or {}).get("step") or "")
    if file.step == "uploading" and file.file.size:
        return f"uploading, {file.sent_bytes * 100 // file.file.size}%"
    return f"{file.step}, {step}" if file.step == "in_progress" and step else file.step


COLUMNS = [
    Column("FILE", lambda row: row["row"].file.path.as_posix()),
    Column("STEP", _step),
    Column("CHUNKS", lambda row: row["row"].chunks, right=True),
    Column("ID", lambda row: row["row"].file_id),
    Column("ERROR", lambda row: row["row"].error),
]
"""Of records with the `IngestionRow` in `row`."""


class IngestionDisplay(Protocol):
    """Shows what happens to files."""

    def show(self, row: IngestionRow) -> None:
        """Show that a row has changed."""


class _Lines:
    """Without a terminal: a line for each file that is through."""

    def show(self, row: IngestionRow) -> None:
        if row.is_final:
            write_stderr(": ".join(part for part in (row.file.path.as_posix(), row.step, row.error) if part))


class _LiveTable:
    """On a terminal: the rows that fit, one line each, those that move before those that wait or are through, and the sum.

    Of a long path it shows the end. Ids are in the table that follows.
    """

    def __init__(self, rows: Sequence[IngestionRow], printer: Printer, live: Live) -> None:
        self._rows, self._printer, self._live = rows, printer, live
        self._columns = [Column("FILE", self._path), *(each for each in COLUMNS if each.title not in ("FILE", "ID"))]
        self._shown_at = 0.0

    def show(self, row: IngestionRow) -> None:
        if time.monotonic() < self._shown_at + _REFRESH_SECONDS:
            return
        self._shown_at = time.monotonic()
        from rich.console import Group
        from rich.text import Text

        height = max(3, self._live.console.height - 4)
        order = sorted(self._rows, key=_urgency)[:height]
        shown = set(map(id, order))
        table = self._printer.table(
            [{"row": each} for each in self._rows if id(each) in shown], self._columns, wrap=False
        )
        done = sum(each.is_final for each in self._rows)
        failed = sum(each.step == "failed" for each in self._rows)
        self._live.update(Group(table, Text(f"{done} of {len(self._rows)} files are through, {failed} failed.")))

    def _path(self, row: Mapping[str, Any]) -> str:
        from rich.cells import cell_len

        # As much as the errors beside it, after the columns between them.
        path, cells = row["row"].file.path.as_posix(), max(20, self._live.console.width // 2 - 19)
        if cell_len(path) <= cells:
            return str(path)
        end = path[-cells:]
        while cell_len(end) >= cells:
            end = end[1:]
        return f"…{end}"


def _urgency(row: IngestionRow) -> int:
    if row.step == "failed":
        return 1
    if row.is_final:
        return 3
    return 2 if row.step == "waiting" else 0


@contextmanager
def show_ingestion(rows: Sequence[IngestionRow], printer: Printer) -> Iterator[IngestionDisplay]:
    """Yields the display of these rows; it ends with the block."""
    console = printer.console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.live import Live

    with Live(console=console, transient=True, refresh_per_second=4) as live:
        yield _LiveTable(rows, printer, live)
