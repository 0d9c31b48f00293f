"""Prints results to stdout: a table, or the response document as JSON or YAML.

Without a terminal tables have no colors and do not wrap, so that `grep` and `awk` see one record per line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.terminal import stdout_is_unicode, strip_control_characters, write_stdout

if TYPE_CHECKING:
    from rich.console import Console, OverflowMethod, RenderableType

__all__ = ["Column", "Printer", "Record", "format_bytes", "format_dollars", "format_number", "format_timestamp"]

Record = Mapping[str, Any]

_UNBOUNDED = 100_000
"""The console width, in characters, that prevents wrapping."""

_STYLES = {
    "ready": "green",
    "active": "green",
    "ok": "green",
    "delivered": "green",
    "succeeded": "green",
    "completed": "green",
    "failed": "red",
    "dead": "red",
    "cancelled": "red",
    "loading": "yellow",
    "waking": "yellow",
    "requested": "yellow",
    "pending": "yellow",
    "uploading": "yellow",
    "in_progress": "yellow",
    "asleep": "dim",
    "inactive": "dim",
}


@dataclass(frozen=True)
class Column:
    """A table column: its title and the function from a record to its cell. None and the empty string show as a dash."""

    title: str
    cell: Callable[[Record], str | int | None]
    right: bool = False

    @classmethod
    def of(cls, field: str, title: str = "") -> Column:
        """The column of a field without formatting."""
        return cls(title or field.upper().replace("_", " "), lambda record: record.get(field))


class Printer:
    """Prints in the format of `--output` and `--color`."""

    def __init__(self, output: str, color: str) -> None:
        self.output = output
        self._color = color

    @property
    def is_table(self) -> bool:
        """Whether the output is a table, to which commands may add text that no program parses."""
        return self.output == "table"

    def print_records(
        self, document: Record, records: Iterable[Record], columns: Sequence[Column], *, empty: str
    ) -> None:
        """Print a table of records, or the document; `empty` goes to stderr when a table has no records."""
        if not self.is_table:
            self._document(document)
            return
        rows = list(records)
        if rows:
            self.console().print(self.table(rows, columns))
        else:
            click.echo(empty, err=True)

    def print_details(self, document: Record, fields: Mapping[str, str | int | None]) -> None:
        """Print one record with a field per line, or the document."""
        if not self.is_table:
            self._document(document)
            return
        rows = [{"name": name, "value": value} for name, value in fields.items()]
        columns = [Column("", lambda row: row["name"]), Column("", lambda row: row["value"])]
        self.console().print(self.table(rows, columns, header=False))

    def print_message(self, document: Record, text: str) -> None:
        """Print the text in table format, else the document."""
        if self.is_table:
            write_stdout(text)
        else:
            self._document(document)

    def table(
        self, records: Iterable[Record], columns: Sequence[Column], *, header: bool = True, wrap: bool = True
    ) -> RenderableType:
        """A table without borders, so that tools can split it into columns.

        `wrap` false: a record takes one line of the console, and `…` marks cells that are cut.
        """
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=header, header_style="bold", padding=(0, 3, 0, 0))
        overflow: OverflowMethod = "fold" if wrap else "ellipsis"
        for column in columns:
            table.add_column(column.title, justify="right" if column.right else "left", overflow=overflow)
        for record in records:
            cells = [_text(column.cell(record)) for column in columns]
            styles = [_STYLES.get(cell.partition(",")[0].lower(), "") for cell in cells]
            shown = [Text(cell, style, no_wrap=not wrap) for cell, style in zip(cells, styles, strict=True)]
            table.add_row(*shown)
        return table

    def console(self, *, stderr: bool = False) -> Console:
        """A console with the colors of `--color`, which wraps no lines without a terminal."""
        from rich.console import Console

        console = Console(
            stderr=stderr,
            force_terminal=True if self._color == "always" else None,
            color_system={"always": "standard", "never": None}.get(self._color, "auto"),
            highlight=False,
            markup=False,
            emoji=False,
        )
        if not (console.file.isatty()):
            console.width = _UNBOUNDED
        return console

    def _document(self, document: Record) -> None:
        if self.output == "json":
            write_stdout(json.dumps(document, indent=2, ensure_ascii=not stdout_is_unicode()))
        else:
            import yaml

            write_stdout(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=stdout_is_unicode()), end="")


def format_timestamp(value: Any) -> str | None:
    """A Unix time in seconds, or an ISO 8601 string, as local time to the minute; None if empty or 0."""
    try:
        seconds = float(value)
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M") if seconds > 0 else None
    except (TypeError, ValueError):
        pass
    try:
        return datetime.fromisoformat(str(value)).astimezone().strftime("%Y-%m-%d %H:%M") if value else None
    except ValueError:
        return str(value)


def format_bytes(value: Any) -> str | None:
    """A number of bytes such as `1.5 GiB`; None if it is not a number."""
    try:
        size = float(value)
    except (TypeError, ValueError):
        return None
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_number(value: Any, digits: int = 0) -> str | None:
    """A number, or its string (protobuf JSON encodes 64-bit integers so), with thousands separators."""
    try:
        return f"{float(value):,.{digits}f}"
    except (TypeError, ValueError):
        return None


def format_dollars(value: Any) -> str | None:
    """An amount of US dollars with 2 to 9 decimal places."""
    try:
        whole, _, part = f"{float(value):,.9f}".partition(".")
    except (TypeError, ValueError):
        return None
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"


def _text(cell: str | int | None) -> str:
    return "-" if cell is None or cell == "" else strip_control_characters(str(cell)).replace("\n", " ")
