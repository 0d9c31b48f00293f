"""`llma admin usage`: usage and costs of the organization, the cost breakdown of a request, and an export of requests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.output import Column

__all__ = ["usage"]

DAY_SECONDS = 86_400
COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
BAR_WIDTHS = range(8, 41)
"""Minimum and maximum length of the longest bar in characters; the terminal's width decides."""

FIGURES_WIDTH = 76

MEASURES = {"cost": "cost_usd", "requests": "requests", "tokens": ""}

Record = Mapping[str, Any]


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def usage(context: click.Context) -> None:
    """Usage and costs of the organization.

    Without a command: show the last 30 days by model.
    """
    if context.invoked_subcommand is None:
        context.invoke(show)


@usage.command()
@click.option("--days", metavar="N", type=click.IntRange(1, 3660), default=30, show_default=True, help="How far back.")
@click.option("--by", type=click.Choice(["model", "project", "user", "key"]), default="model", show_default=True)
@click.option(
    "--plot", type=click.Choice(list(MEASURES)), default="tokens", show_default=True, help="Value of the bars."
)
@pass_session
def show(session: Session, days: int = 30, by: str = "model", plot: str = "tokens") -> None:
    """Show usage by day as bars, and totals by model or others.

    Owners see the whole organization, others their project.
    """
    from llmariner.cli.support.bars import bar
    from llmariner.cli.support.output import Column
    from llmariner.cli.support.subjects import display_names

    api = session.api()
    start = (int(time.time()) // DAY_SECONDS - days + 1) * DAY_SECONDS
    document = api.get("api_usages", start_time=start, group_by=by)
    if not session.printer.is_table:
        session.printer.print_message(document, "")
        return
    by_day = {day["day"]: day for day in api.get("api_usages", start_time=start, group_by="day")["data"]}
    shown = [by_day.get(start + number * DAY_SECONDS, {"day": start + number * DAY_SECONDS}) for number in range(days)]
    names = display_names(session, api) if by != "model" else {}
    rows = sorted(document["data"], key=lambda row: (-row.get("cost_usd", 0), -_tokens(row)))
    if rows:
        maximum = max(_measure(plot, day) for day in shown)
        width = max(BAR_WIDTHS[0], min(BAR_WIDTHS[-1], session.printer.console().width - FIGURES_WIDTH))
        bars = Column("", lambda day: bar(_measure(plot, day), maximum, width))
        session.printer.print_records({}, shown, [Column("DAY (UTC)", _day), *_count_columns(rows), bars], empty="")
        click.echo()
    what = Column(by.upper(), lambda row: names.get(row[by], row[by]))
    session.printer.print_records({}, rows, [what, *_count_columns(rows)], empty="Nothing was used in that time.")


@usage.command()
@click.argument("request", metavar="REQUEST_ID")
@pass_session
def why(session: Session, request: str) -> None:
    """Show the cost breakdown of a request.

    Its id is in the response header x-request-id, and in each line of an export.
    """
    from llmariner.cli.support.api import build_path
    from llmariner.cli.support.output import Column, format_dollars, format_number

    found = session.api().get(build_path("organization", "usage", "requests", request))
    printer = session.printer
    printer.print_details(found, _request_details(found))
    if not printer.is_table:
        return
    click.echo()
    items = [
        Column.of("line_item", "PAID FOR"),
        Column("QUANTITY", lambda item: format_number(item.get("quantity")), right=True),
        Column("PRICE $", _price, right=True),
        Column("COST $", lambda item: format_dollars(item.get("amount_usd")), right=True),
    ]
    printer.print_records(
        {}, found["line_items"], items, empty="No price was valid when it was admitted: it costs nothing."
    )
    click.echo()
    events = [
        Column("EVENT", lambda event: event.get("kind")),
        Column("AFTER S", lambda event: format_number(event["at"] - found["admitted_at"], 3), right=True),
        Column.of("outcome"),
        *(
            Column(name.removesuffix("_tokens").upper(), partial(_count, name), right=True)
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "trained_tokens")
            if name != "trained_tokens" or found.get(name)
        ),
        Column("COST SO FAR $", lambda event: format_dollars(event.get("amount_usd")), right=True),
    ]
    printer.print_records({}, found["events"], events, empty="")


@usage.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["csv", "parquet"]), help="Default: by the extension of FILE; csv for -."
)
@click.option("--days", metavar="N", type=click.IntRange(min=1), default=31, show_default=True, help="How far back.")
@pass_session
def export(session: Session, file: Path, form: str | None, days: int) -> None:
    """Write every request to a file, as CSV or Parquet.

    Those of the whole organization, one a line, oldest first; - is stdout. Parquet needs the package's extra:
    pip install 'llmariner-knative[parquet]'.
    """
    from llmariner.cli.usage_export import write_csv, write_parquet

    chosen = form or ("parquet" if file.suffix == ".parquet" else "csv")
    start = int(time.time()) - days * DAY_SECONDS
    write = write_parquet if chosen == "parquet" else write_csv
    with session.api().download("organization/usage/requests", start_time=start) as chunks:
        count = write(chunks, file)
    if str(file) != "-":
        session.printer.print_message({"file": str(file), "requests": count}, f"Wrote {count:,} requests to {file}.")


def _count_columns(rows: Sequence[Record]) -> list[Column]:
    """The columns of the counts; that of trained tokens only if there are any."""
    from llmariner.cli.support.output import Column, format_number

    shown = (*COUNTS, *(["trained_tokens"] if any(row.get("trained_tokens") for row in rows) else []))
    counts = [Column(name.upper().replace("_TOKENS", ""), partial(_count, name), right=True) for name in shown]
    return [*counts, Column("COST $", lambda row: format_number(row.get("cost_usd"), 6), right=True)]


def _count(name: str, row: Record) -> str | None:
    from llmariner.cli.support.output import format_number

    return format_number(row.get(name))


def _tokens(row: Record) -> int:
    return sum(int(row.get(f"{kind}_tokens", 0)) for kind in ("prompt", "completion", "trained"))


def _measure(plot: str, day: Record) -> float:
    return float(day.get(MEASURES[plot], 0)) if MEASURES[plot] else float(_tokens(day))


def _day(row: Record) -> str:
    # Days are in UTC, independent of the local time zone.
    return time.strftime("%Y-%m-%d", time.gmtime(row["day"]))


def _price(item: Record) -> str | None:
    from llmariner.cli.support.output import format_dollars

    each = format_dollars(item.get("price_usd"))
    return f"{each} each" if item.get("line_item") == "requests" else f"{each} per million"


def _request_details(found: Record) -> dict[str, str | int | None]:
    from llmariner.cli.support.output import format_dollars, format_number, format_timestamp

    times = {
        "Waited for the model to wake": found.get("wake_seconds"),
        "Waited for a place": found.get("queued_seconds"),
        "First token after": found.get("first_token_seconds"),
        "Took": found.get("total_seconds"),
    }
    return {
        "Request": found["id"],
        "Project": found.get("project_id"),
        "User": found.get("user_id"),
        "Key": found.get("api_key_id"),
        "Model": found.get("model"),
        "Adapter": found.get("adapter"),
        "Route": found.get("route"),
        "Outcome": f"{found.get('outcome')}, status {found.get('status')}",
        "Admitted": format_timestamp(found.get("admitted_at")),
        **{name: f"{format_number(value, 3)} s" for name, value in times.items() if value is not None},
        "Price": found.get("price_id"),
        "Cost $": format_dollars(found["amount"]["value"]),
        "Proof": "its events add up to what is stored"
        if found.get("rebuilt_equals_stored")
        else "ITS EVENTS DO NOT ADD UP TO WHAT IS STORED",
    }
