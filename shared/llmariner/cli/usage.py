"""`llma usage`: requests and tokens by key, model and day."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.daily_report import DAY_SECONDS, format_day
from llmariner.cli.support.errors import CommandError
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.api import ApiClient

__all__ = ["usage"]

COUNTS = ("requests", "successful_requests", "prompt_tokens", "cached_tokens", "completion_tokens")


@click.group(cls=Group)
def usage() -> None:
    """Requests and tokens used."""


@usage.command("list")
@click.option(
    "--days", metavar="N", type=click.IntRange(min=1), default=30, show_default=True, help="How far back to look."
)
@click.option(
    "--by",
    "groups",
    type=click.Choice(["key", "model", "day"]),
    multiple=True,
    default=["key", "model", "day"],
    help="Sum by this; repeat for several. Default: all three.",
)
@pass_session
def list_usage(session: Session, days: int, groups: tuple[str, ...]) -> None:
    """Show usage by key, model and day."""
    from llmariner.cli.support.output import Column

    api = session.api()
    names = _key_names(api) if "key" in groups and session.printer.is_table else {}
    start = int(time.time()) - days * DAY_SECONDS
    document = api.get("api_usages", start_time=start, group_by=",".join(groups))
    identity = {
        "day": Column("DAY", format_day),
        "key": Column("KEY", lambda row: names.get(row["key"], row["key"])),
        "model": Column.of("model"),
    }
    trained = ["trained_tokens"] if any(row.get("trained_tokens") for row in document["data"]) else []
    counts = (*COUNTS, *trained)
    columns = [
        *(column for name, column in identity.items() if name in groups),
        *(Column(field.upper().replace("_", " "), partial(_count, field), right=True) for field in counts),
    ]
    session.printer.print_records(document, document["data"], columns, empty="Nothing was used in that time.")


def _key_names(api: ApiClient) -> dict[str, str]:
    """Key id → name; empty for a caller without permission to list keys, so that ids are shown."""
    try:
        return {key["id"]: key["name"] for key in api.all_pages("api_keys")["data"]}
    except CommandError:
        return {}


def _count(field: str, row: Mapping[str, Any]) -> str | None:
    from llmariner.cli.support.output import format_number

    return format_number(row.get(field))
