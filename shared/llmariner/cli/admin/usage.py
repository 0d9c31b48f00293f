"""`llma admin usage`: usage and costs of the organization, the cost breakdown of a request, and an export of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.daily_report import (
    DAY_SECONDS,
    export_options,
    export_rows,
    print_days,
    start_of_days,
)
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.output import Column

__all__ = ["usage"]

COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
FIGURES_WIDTH = 76
COSTS_WIDTH = 32
COST_GROUPS = {"item": "line_item", "project": "project_id", "user": "user_id", "key": "api_key_id"}
COST_TITLES = {"item": "LINE ITEM"}
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
    from llmariner.cli.support.output import Column
    from llmariner.cli.support.subjects import display_names

    api = session.api()
    start = start_of_days(days)
    document = api.get("api_usages", start_time=start, group_by=by)
    if not session.printer.is_table:
        session.printer.print_message(document, "")
        return
    by_day = {day["day"]: day for day in api.get("api_usages", start_time=start, group_by="day")["data"]}
    shown = [by_day.get(start + number * DAY_SECONDS, {"day": start + number * DAY_SECONDS}) for number in range(days)]
    names = display_names(session, api) if by != "model" else {}
    rows = sorted(document["data"], key=lambda row: (-row.get("cost_usd", 0), -_tokens(row)))
    if rows:
        print_days(session, shown, _count_columns(rows), partial(_measure, plot), figures_width=FIGURES_WIDTH)
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
@click.option("--days", metavar="N", type=click.IntRange(1, 180), default=30, show_default=True, help="How far back.")
@click.option(
    "--by",
    type=click.Choice(list(COST_GROUPS)),
    default="item",
    show_default=True,
    help="item: what was paid for, such as a model's output tokens or a GPU's seconds.",
)
@pass_session
def costs(session: Session, days: int, by: str) -> None:
    """Show costs by day as bars, and totals by line item or others.

    Those of tokens and compute of the whole organization, as budgets count them.
    """
    from llmariner.cli.support.output import Column, format_dollars
    from llmariner.cli.support.subjects import display_names

    api, group = session.api(), COST_GROUPS[by]
    document = api.get("organization/costs", start_time=start_of_days(days), limit=days, group_by=group)
    if not session.printer.is_table:
        session.printer.print_message(document, "")
        return
    rows = _cost_totals(document["data"], group)
    amount = Column("COST $", lambda row: format_dollars(row["cost"]), right=True)
    if rows:
        shown = [{"day": each["start_time"], "cost": sum(map(_amount, each["results"]))} for each in document["data"]]
        print_days(session, shown, [amount], lambda day: float(day["cost"]), figures_width=COSTS_WIDTH)
    names = display_names(session, api) if by != "item" else {}
    # What no key, user or project in particular was charged for, such as compute by key.
    what = Column(COST_TITLES.get(by, by.upper()), lambda row: names.get(row[group], row[group]) or "(none)")
    quantity = [Column("QUANTITY", _cost_quantity, right=True)] if by == "item" else []
    session.printer.print_records({}, rows, [what, *quantity, amount], empty="Nothing cost anything in that time.")


@usage.command()
@export_options
@pass_session
def export(session: Session, file: Path, form: str | None, days: int) -> None:
    """Write every request to a file, as CSV or Parquet.

    Those of the whole organization, one a line, oldest first; - is stdout. Parquet needs the package's extra:
    pip install 'llmariner-knative[parquet]'.
    """
    export_rows(session, "organization/usage/requests", "requests", file, form, days)


def _amount(result: Record) -> float:
    return float(result["amount"]["value"])


def _cost_totals(buckets: Sequence[Record], group: str) -> list[dict[str, Any]]:
    """A row per group with what it cost, that of the highest cost first."""
    sums: dict[str | None, dict[str, Any]] = {}
    for result in (each for bucket in buckets for each in bucket["results"]):
        row = sums.setdefault(result[group], {group: result[group], "cost": 0.0, "quantity": 0.0})
        row["cost"] += _amount(result)
        row["quantity"] += result.get("quantity") or 0
    return sorted((row for row in sums.values() if row["cost"]), key=lambda row: (-row["cost"], row[group] or ""))


def _cost_quantity(row: Record) -> str | None:
    from llmariner.cli.support.output import format_number

    return format_number(row["quantity"], 3 if str(row["line_item"]).endswith("_seconds") else 0)


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
