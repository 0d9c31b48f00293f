"""`llma status`: phase, load and memory of each model."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmariner.cli.support.api import ApiClient
    from llmariner.cli.support.output import Column, Printer

__all__ = ["status"]

PATH = "inference/status"


@click.command(cls=Command)
@click.option(
    "--watch/--no-watch", default=None, help="Keep the table up to date until ctrl-C. Default: on a terminal."
)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    help="Seconds between updates.",
)
@pass_session
def status(session: Session, watch: bool | None, interval: float) -> None:
    """Show each model's phase, requests, speed and memory."""
    printer = session.printer
    if watch is None:
        watch = sys.stdout.isatty()
    if watch and printer.is_table:
        _watch(session.api(), printer, interval)
    document = session.api().get(PATH)
    models = _models(document)
    printer.print_records(document, models, _columns(models), empty="No models are being served.")


def _watch(api: ApiClient, printer: Printer, interval: float) -> None:
    """Redraw until interrupted. A restart of the server does not end the loop; a failure of the first request does."""
    from rich.live import Live

    document = api.get(PATH)
    with Live(_view(printer, document, ""), console=printer.console(), auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            problem = ""
            try:
                document = api.get(PATH)
            except CommandError as failure:
                if failure.code not in (ExitCode.SERVER_ERROR, ExitCode.UNREACHABLE):
                    raise
                problem = f"{failure.message} Still trying."
            live.update(_view(printer, document, problem), refresh=True)


def _view(printer: Printer, document: Mapping[str, Any], problem: str) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    models = _models(document)
    body = printer.table(models, _columns(models)) if models else Text("No models are being served.")
    clock = time.strftime("%H:%M:%S")
    footer = Text(problem, style="red") if problem else Text(f"{clock}  ctrl-C ends", style="dim")
    return Group(body, Text(), footer)


def _models(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record per model and engine, with the cluster's name."""
    return [
        {**model, "cluster": cluster.get("name") or cluster.get("id")}
        for cluster in document.get("cluster_statuses") or []
        for engine in cluster.get("engine_statuses") or []
        for model in engine.get("models") or []
    ]


def _columns(models: list[dict[str, Any]]) -> list[Column]:
    from llmariner.cli.support.errors import format_progress
    from llmariner.cli.support.output import Column, format_bytes, format_number

    columns = [
        Column.of("id", "MODEL"),
        Column.of("cluster"),
        Column("PHASE", lambda model: format_progress(model) or ("ready" if model.get("is_ready") else "not ready")),
        Column("RUNNING", lambda model: model.get("requests_running"), right=True),
        Column("WAITING", lambda model: model.get("requests_waiting"), right=True),
        Column("TOKENS/S", lambda model: format_number(model.get("tokens_per_second"), 1), right=True),
        Column("MEMORY", lambda model: format_bytes(model.get("memory_bytes") or None), right=True),
    ]
    # Only models that failed or are queued have a message.
    return [*columns, Column("MESSAGE", _message)] if any(map(_message, models)) else columns


def _message(model: Mapping[str, Any]) -> str | None:
    return (model.get("status_details") or {}).get("status_message")
