"""`llma models pull`: register a model if it does not exist, and show its loading until it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click

from llmariner.cli.models.create_and_update import SOURCES, base_model
from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.enumerations import enum_value
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import StatusLine, strip_control_characters

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from llmariner.cli.support.api import ApiClient

__all__ = ["pull"]

POLL_SECONDS = 0.5
_LONGEST_ESTIMATE = 100 * 3600


@click.command(cls=Command)
@click.argument("model", metavar="ID")
@click.option(
    "--source-repository",
    type=SOURCES,
    default="hugging-face",
    show_default=True,
    help="Source of the weights.",
)
@click.option("--model-file-location", help="Path or URL of the weights, if the id does not imply it.")
@click.option("--credential", metavar="NAME", help="The project's credential to fetch it with.")
@pass_session
def pull(
    session: Session, model: str, source_repository: str, model_file_location: str | None, credential: str | None
) -> None:
    """Add a model and show its loading until it is done.

    Interrupting the command does not stop the loading; run it again to continue watching.
    """
    api = session.api()
    new = base_model(model, source_repository, model_file_location, credential)
    document = _find(api, model) or api.post("models", new)
    with _display(session) as display:
        while not _is_finished(document):
            display.show(document)
            time.sleep(POLL_SECONDS)
            document = _get(api, model)
        display.show(document)
    if _status(document) == "FAILED":
        reason = str(document.get("loading_failure_reason") or "the server gives no reason").rstrip(".")
        raise CommandError(
            ExitCode.SERVER_ERROR,
            f"loading {model} failed: {reason}.",
            next_step=f"mend the cause, then `llma models retry {model}`.",
        )
    session.printer.print_message(document, f"{model} is loaded.")


def _get(api: ApiClient, model: str) -> dict[str, Any]:
    from llmariner.cli.support.api import build_path

    return api.get(build_path("models", model), include_loading_model="true")


def _find(api: ApiClient, model: str) -> dict[str, Any] | None:
    try:
        return _get(api, model)
    except CommandError as failure:
        if failure.code == ExitCode.NOT_FOUND:
            return None
        raise


def _is_finished(model: Mapping[str, Any]) -> bool:
    return _status(model) in ("SUCCEEDED", "FAILED")


class _Display(Protocol):
    """Shows the progress of loading."""

    def show(self, model: Mapping[str, Any]) -> None: ...


class _Lines:
    """Without a terminal: a line per change of status and per 10 %."""

    def __init__(self) -> None:
        self._line = StatusLine()

    def show(self, model: Mapping[str, Any]) -> None:
        fraction = _fraction(model)
        text = _stage(model) if fraction in (None, 1.0) else f"{_stage(model)}, {fraction:.0%}"
        self._line.show(text, key=f"{_status(model)} {int((fraction or 0) * 10)}")


class _Bar:
    """On a terminal: a progress bar, indeterminate while the server reports no progress."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def show(self, model: Mapping[str, Any]) -> None:
        fraction = _fraction(model)
        self._progress.update(
            self._task,
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            description=strip_control_characters(_stage(model)),
        )


@contextmanager
def _display(session: Session) -> Iterator[_Display]:
    console = session.printer.console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, progress.add_task("", total=None))


def _fraction(model: Mapping[str, Any]) -> float | None:
    """The loaded fraction, 0 to 1; None if unknown."""
    if _status(model) == "SUCCEEDED":
        return 1.0
    fraction = model.get("loading_progress")
    return min(max(float(fraction), 0.0), 1.0) if isinstance(fraction, int | float) and fraction else None


def _stage(model: Mapping[str, Any]) -> str:
    status = _status(model).lower()
    message = model.get("loading_status_message")
    return ": ".join((str(model.get("id")), ", ".join(part for part in (status, message, _time_left(model)) if part)))


def _time_left(model: Mapping[str, Any]) -> str:
    seconds = model.get("loading_seconds_left")
    if not isinstance(seconds, int | float) or _is_finished(model) or not 0 <= seconds < _LONGEST_ESTIMATE:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes // 60} h {minutes % 60} min left" if minutes >= 60 else f"about {minutes} min {rest} s left"


def _status(model: Mapping[str, Any]) -> str:
    return enum_value(model.get("loading_status") or "unknown")
