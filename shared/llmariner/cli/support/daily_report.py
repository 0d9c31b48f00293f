"""What reports by day share: the days, a table with a bar for each, and exports to a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.output import Column, Record

__all__ = ["DAY_SECONDS", "export_options", "export_rows", "format_day", "print_days", "start_of_days"]

DAY_SECONDS = 86_400
_BAR_WIDTHS = range(8, 41)
"""Minimum and maximum length of the longest bar in characters; the terminal's width decides."""

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., Any])


def start_of_days(days: int) -> int:
    """The beginning of the first of so many days of UTC, of which today is the last."""
    return (int(time.time()) // DAY_SECONDS - days + 1) * DAY_SECONDS


def format_day(row: Record) -> str:
    """The date of a row's `day`, in UTC, independent of the local time zone."""
    return time.strftime("%Y-%m-%d", time.gmtime(row["day"]))


def print_days(
    session: Session,
    days: Sequence[Record],
    columns: Sequence[Column],
    value: Callable[[Record], float],
    *,
    figures_width: int,
) -> None:
    """Print a table of days, each with a bar of its value, and an empty line. `figures_width`: of the other columns."""
    from llmariner.cli.support.bars import bar
    from llmariner.cli.support.output import Column

    maximum = max(value(day) for day in days)
    width = max(_BAR_WIDTHS[0], min(_BAR_WIDTHS[-1], session.printer.console().width - figures_width))
    bars = Column("", lambda day: bar(value(day), maximum, width))
    session.printer.print_records({}, days, [Column("DAY (UTC)", format_day), *columns, bars], empty="")
    click.echo()


_EXPORT_OPTIONS = (
    click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path)),
    click.option(
        "--format", "form", type=click.Choice(["csv", "parquet"]), help="Default: by the extension of FILE; csv for -."
    ),
    click.option(
        "--days", metavar="N", type=click.IntRange(min=1), default=31, show_default=True, help="How far back."
    ),
)


def export_options(command: CommandFunction) -> CommandFunction:
    """Add the argument FILE and the options of an export."""
    for option in reversed(_EXPORT_OPTIONS):
        command = option(command)
    return command


def export_rows(session: Session, path: str, noun: str, file: Path, form: str | None, days: int) -> None:
    """Write the CSV of a route to a file, as CSV or Parquet, and say how many rows, `noun`, there were."""
    from llmariner.cli.usage_export import write_csv, write_parquet

    chosen = form or ("parquet" if file.suffix == ".parquet" else "csv")
    write = write_parquet if chosen == "parquet" else write_csv
    with session.api().download(path, start_time=int(time.time()) - days * DAY_SECONDS) as chunks:
        count = write(chunks, file)
    if str(file) != "-":
        session.printer.print_message({"file": str(file), noun: count}, f"Wrote {count:,} {noun} to {file}.")
