"""`llma events`: the CloudEvents that were delivered, are pending, or are dead letters."""

from __future__ import annotations

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.session import Session

__all__ = ["events"]

PAGE = 100
"""The page size limit of the API."""


@click.group(cls=Group)
def events() -> None:
    """Events: delivered, pending, and dead."""


@events.command("list")
@click.option("--state", type=click.Choice(["dead", "pending", "delivered"]), help="Only events in this state.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=50, show_default=True, help="Newest N.")
@pass_session
def list_events(session: Session, state: str | None, limit: int) -> None:
    """List deliveries of events, newest first.

    An event appears once for each of its consumers. Dead deliveries are not retried until a replay.
    """
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages("events", max_records=limit, limit=min(limit, PAGE), state=state)
    columns = [
        Column.of("id"),
        Column.of("type"),
        Column.of("subject"),
        Column.of("consumer"),
        Column.of("state"),
        Column.of("attempts"),
        Column("TIME", lambda event: format_timestamp(event.get("time"))),
        Column.of("last_error"),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No events.")


@events.command()
@click.argument("event", metavar="ID")
@pass_session
def replay(session: Session, event: str) -> None:
    """Deliver an event again. Consumers are idempotent by event id."""
    from llmariner.cli.support.api import build_path

    answer = session.api().post(build_path("events", event) + ":replay")
    session.printer.print_message(answer, f"Event {event} is delivered again.")
