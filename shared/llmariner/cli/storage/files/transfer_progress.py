"""Shows the progress of a transfer on stderr: a bar on a terminal, else a line per 10 % of a big file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import StatusLine, strip_control_characters

__all__ = ["Report", "show_transfer"]

Report = Callable[[int], None]
"""Called with the number of bytes that are through."""

_SMALL_BYTES = 32 * 1024 * 1024
"""Without a terminal, a smaller file shows no progress."""


@contextmanager
def show_transfer(session: Session, name: str, total: int) -> Iterator[Report]:
    """Yields the function to call as bytes pass; `total` is their number."""
    console = session.printer.console(stderr=True)
    if not console.is_terminal:
        yield _report_lines(name, total)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.table import Column

    # Half of the line for both, so that a long name leaves room for the numbers.
    quarter = max(8, console.width // 4)
    columns = (
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", max_width=quarter),
        ),
        BarColumn(bar_width=quarter),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(strip_control_characters(name), total=total or None)
        yield lambda done: progress.update(task, completed=done)


def _report_lines(name: str, total: int) -> Report:
    line = StatusLine()

    def report(done: int) -> None:
        if total >= _SMALL_BYTES:
            tenths = done * 10 // total
            line.show(f"{name}: {tenths * 10}%", key=str(tenths))

    return report
