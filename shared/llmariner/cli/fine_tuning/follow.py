"""`llma fine-tuning jobs logs` and `watch`."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.fine_tuning.progress_view import Progress
    from llmariner.cli.support.api import ApiClient
    from llmariner.cli.support.output import Printer

__all__ = ["logs", "watch"]

_JOB_ARGUMENT = click.argument("job", metavar="ID")
_JOB_SECONDS = 2.0
"""Between two looks at the job: its place in line is in no event."""
_DRAW_SECONDS = 0.25


@click.command(cls=Command)
@_JOB_ARGUMENT
@click.option("-f", "--follow", is_flag=True, help="Continue until it ends.")
@pass_session
def logs(session: Session, job: str, follow: bool) -> None:
    """Print what happened in a job, oldest first."""
    api = session.api()
    if follow:
        api.get(_path(job))  # its failure ends the command, a later one does not
        _print_events(api, session.printer, job)
        return
    for event in reversed(api.all_pages(f"{_path(job)}/events", limit=100)["data"]):
        _print_event(session.printer, event)


@click.command(cls=Command)
@_JOB_ARGUMENT
@pass_session
def watch(session: Session, job: str) -> None:
    """Watch a job: place in line, estimate, losses.

    Without a terminal, print a line for whatever happens. The exit code is 0 only if the job has succeeded. ctrl-C ends
    the watching, not the job.
    """
    api, printer = session.api(), session.printer
    document = api.get(_path(job))
    if printer.is_table and sys.stdout.isatty():
        _draw(api, printer, job, document)
    else:
        _print_lines(api, printer, job, document)
    document = api.get(_path(job))
    if document.get("status") != "succeeded":
        raise CommandError(
            ExitCode.REJECTED,
            f"The job {job} has ended: {document.get('status')}.",
            next_step=f"`llma fine-tuning jobs get {job}` says why.",
        )


def _print_lines(api: ApiClient, printer: Printer, job: str, document: dict[str, Any]) -> None:
    from llmariner.cli.fine_tuning.progress_view import summary_line
    from llmariner.cli.support.terminal import write_stdout

    if printer.is_table:
        write_stdout(summary_line(document))
        sys.stdout.flush()
    _print_events(api, printer, job)
    if printer.is_table:
        write_stdout(summary_line(api.get(_path(job))))


def _print_events(api: ApiClient, printer: Printer, job: str) -> None:
    from llmariner.cli.fine_tuning.followed_events import follow_events
    from llmariner.cli.support.terminal import StatusLine

    problem = StatusLine()
    for event in follow_events(api, _path(job), lambda error: problem.show(f"{error.message} Still trying.")):
        problem.clear()
        if event is not None:
            _print_event(printer, event)


def _print_event(printer: Printer, event: Any) -> None:
    from llmariner.cli.fine_tuning.progress_view import event_line
    from llmariner.cli.support.terminal import write_stdout

    write_stdout(event_line(event).replace("\n", " ") if printer.is_table else json.dumps(event))
    sys.stdout.flush()


def _draw(api: ApiClient, printer: Printer, job: str, document: dict[str, Any]) -> None:
    """Redraw until the job has ended. A restart of the server does not end the loop."""
    from rich.live import Live

    from llmariner.cli.fine_tuning.followed_events import is_passing
    from llmariner.cli.fine_tuning.progress_view import Progress, view

    progress, console = Progress(document), printer.console()
    reader = _Reader(api, job, progress)
    reader.start()
    looked = time.monotonic()

    def picture() -> Any:
        return view(progress, console.width, console.height)

    with Live(picture(), console=console, auto_refresh=False) as live:
        while not reader.has_ended.wait(_DRAW_SECONDS):
            if time.monotonic() - looked > _JOB_SECONDS:
                try:
                    progress.job = api.get(_path(job))
                except CommandError as error:
                    if not is_passing(error):
                        raise
                    progress.problem = f"{error.message} Still trying."
                looked = time.monotonic()
            live.update(picture(), refresh=True)
        if reader.failure is not None:
            raise reader.failure
        progress.job = api.get(_path(job))
        live.update(picture(), refresh=True)


class _Reader(threading.Thread):
    """Reads the events of a job. `failure`: why it ended before the job did; None where it did not."""

    def __init__(self, api: ApiClient, job: str, progress: Progress) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._job = job
        self._progress = progress
        self.has_ended = threading.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        """See the class."""
        from llmariner.cli.fine_tuning.followed_events import follow_events

        try:
            for event in follow_events(self._api, _path(self._job), self._complain):
                if event is not None:
                    self._progress.add(event)
        except Exception as error:
            self.failure = error
        finally:
            self.has_ended.set()

    def _complain(self, error: CommandError) -> None:
        self._progress.problem = f"{error.message} Still trying."


def _path(job: str) -> str:
    from llmariner.cli.support.api import build_path

    return build_path("fine_tuning", "jobs", job)
