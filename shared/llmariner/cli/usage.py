"""`llma usage`: what was used, by key, model and day."""

from __future__ import annotations

import time

import click

from llmariner.cli.grammar import Group, pass_session
from llmariner.cli.session import Session

__all__ = ["usage"]

DAY_NANOSECONDS = 86_400 * 10**9


@click.group(cls=Group)
def usage() -> None:
    """Requests and tokens used."""


@usage.command("list")
@click.option(
    "--days", metavar="N", type=click.IntRange(min=1), help="How far back to look; the server's default is a month."
)
@pass_session
def list_usage(session: Session, days: int | None) -> None:
    """Show usage by key, model and day."""
    from llmariner.cli.printing import Column, number

    now = time.time_ns()
    span = {"start_time": now - days * DAY_NANOSECONDS, "end_time": now} if days else {}
    document = session.api().get("api_usages", **span)
    columns = [
        Column.of("day"),
        Column("KEY", lambda row: row.get("api_key_name") or row.get("api_key_id")),
        Column.of("model_id", "MODEL"),
        Column("REQUESTS", lambda row: number(row.get("total_requests")), right=True),
        Column("PROMPT TOKENS", lambda row: number(row.get("total_prompt_tokens")), right=True),
        Column("COMPLETION TOKENS", lambda row: number(row.get("total_completion_tokens")), right=True),
        Column("FIRST TOKEN MS", lambda row: number(row.get("avg_time_to_first_token_ms")), right=True),
        Column("LATENCY MS", lambda row: number(row.get("avg_latency_ms")), right=True),
    ]
    session.printer.records(document, document.get("usages", []), columns, empty="Nothing was used in that time.")
