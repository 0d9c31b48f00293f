"""`llma admin showback`: who held which GPUs, cores and memory for how long, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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

__all__ = ["showback"]

HOUR_SECONDS = 3600
_FIGURES_WIDTH = 70
_GROUPS = {
    "organization": "organization_id",
    "project": "project_id",
    "user": "user_id",
    "kind": "kind",
    "workload": "workload_id",
    "device": "device",
    "cluster": "cluster_id",
}
_MEASURES = ("gpu_seconds", "core_seconds", "memory_gib_seconds", "cost")

_SHARES = {
    "gpu_utilization": "gpu_measured_seconds",
    "gpu_idle_share": "gpu_measured_seconds",
    "core_utilization": "core_measured_seconds",
}
"""Shares, and the seconds of which they are shares."""

Record = Mapping[str, Any]


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def showback(context: click.Context) -> None:
    """GPUs, cores and memory that were held, and what they cost.

    Without a command: show the last 30 days by project.
    """
    if context.invoked_subcommand is None:
        context.invoke(show)


@showback.command()
@click.option("--days", metavar="N", type=click.IntRange(1, 31), default=30, show_default=True, help="How far back.")
@click.option("--by", type=click.Choice(list(_GROUPS)), default="project", show_default=True)
@click.option("--plot", type=click.Choice(_MEASURES), help="Value of the bars; by default of what was held.")
@click.option("--installation", is_flag=True, help="All organizations, for who runs the installation.")
@pass_session
def show(
    session: Session, days: int = 30, by: str = "project", plot: str | None = None, installation: bool = False
) -> None:
    """Show hours by day as bars, and totals by project or others.

    A model that all projects share counts for those who used it, by their tokens of the day.
    """
    from llmariner.cli.support.output import Column

    start = start_of_days(days)
    ask = partial(
        session.api().get,
        "organization/usage/compute",
        start_time=start,
        bucket_width="1d",
        limit=days,
        installation="true" if installation else None,
    )
    by_day, grouped = ask(), ask(group_by=_GROUPS[by])
    if not session.printer.is_table:
        session.printer.print_message(grouped, "")
        return
    names = _names(session, by)
    rows = _totals(grouped["data"], _GROUPS[by])
    if rows:
        sums = [{"day": each["start_time"], **_add(each["results"])} for each in by_day["data"]]
        measure = plot or ("gpu_seconds" if any(day["gpu_seconds"] for day in sums) else "core_seconds")
        print_days(session, sums, _columns(rows), lambda day: float(day[measure]), figures_width=_FIGURES_WIDTH)
    what = Column(by.upper(), lambda row: names(row[_GROUPS[by]]))
    session.printer.print_records({}, rows, [what, *_columns(rows)], empty="Nothing was held in that time.")


@showback.command()
@export_options
@pass_session
def export(session: Session, file: Path, form: str | None, days: int) -> None:
    """Write every allocation to a file.

    As CSV or Parquet, those of the whole organization, one a line from its start to its end; - is stdout. Parquet needs
    the package's extra: pip install 'llmariner-knative[parquet]'.
    """
    export_rows(session, "organization/usage/compute/allocations", "allocations", file, form, days)


@showback.command()
@pass_session
def prices(session: Session) -> None:
    """List the prices of GPUs, cores and memory."""
    from llmariner.cli.support.output import Column, format_dollars, format_timestamp

    def money(field: str, title: str) -> Column:
        return Column(title, lambda price: format_dollars(price.get(field)), right=True)

    document = session.api().all_pages("prices/compute")
    columns = [
        Column("DEVICE", lambda price: price["device"] or "(no GPU)"),
        money("gpu_hour", "GPU HOUR $"),
        money("core_hour", "CORE HOUR $"),
        money("gib_hour", "GIB HOUR $"),
        Column("FROM", lambda price: format_timestamp(price.get("valid_from"))),
        Column("TO", lambda price: format_timestamp(price.get("valid_to"))),
    ]
    session.printer.print_records(
        document, document["data"], columns, empty="There are no prices of compute: it costs nothing."
    )


@showback.command("set-price")
@click.argument("device", metavar="DEVICE")
@click.option("--gpu-hour", metavar="DOLLARS", help="Of a GPU; else nothing.")
@click.option("--core-hour", metavar="DOLLARS", help="Of a core; else nothing.")
@click.option("--gib-hour", metavar="DOLLARS", help="Of a GiB of memory; else nothing.")
@click.option("--in-days", metavar="N", type=click.FloatRange(min=0), help="When it begins; else now.")
@pass_session
def set_price(
    session: Session,
    device: str,
    gpu_hour: str | None,
    core_hour: str | None,
    gib_hour: str | None,
    in_days: float | None,
) -> None:
    """Set what an hour on DEVICE costs from now on, or from later.

    DEVICE is a ResourceFlavor of Kueue; * is all without a price of their own, "" what has no GPU. The costs of earlier
    hours do not change.
    """
    from llmariner.cli.support.output import format_timestamp

    body: dict[str, Any] = {"device": device}
    optional = {"gpu_hour": gpu_hour, "core_hour": core_hour, "gib_hour": gib_hour}
    body |= {name: amount for name, amount in optional.items() if amount is not None}
    if in_days is not None:
        body["valid_from"] = time.time() + in_days * DAY_SECONDS
    created = session.api().post("prices/compute", body)
    message = f"{device or 'What has no GPU'} costs that from {format_timestamp(created.get('valid_from'))} on."
    session.printer.print_message(created, message)


@showback.command()
@click.argument(
    "choice", metavar="[tokens|devices|both]", type=click.Choice(["tokens", "devices", "both"]), required=False
)
@click.option("--in-days", metavar="N", type=click.FloatRange(min=0), help="When it begins; else now.")
@pass_session
def charge(session: Session, choice: str | None, in_days: float | None) -> None:
    """Show or choose whether tokens, devices or both are charged.

    It matters to models of a project and fine-tuning jobs, whose tokens and devices may both have a price; without a
    choice both are charged. Models that all projects share are charged by their tokens, batch jobs and notebooks by their
    devices. What was charged before does not change.
    """
    from llmariner.cli.support.output import Column, format_timestamp

    if choice is None:
        document = session.api().all_pages("prices/charge")
        columns = [
            Column.of("charge"),
            Column("FROM", lambda each: format_timestamp(each.get("valid_from"))),
            Column("TO", lambda each: format_timestamp(each.get("valid_to"))),
        ]
        listed = sorted(document["data"], key=lambda each: each["valid_from"])
        session.printer.print_records(document, listed, columns, empty="Nothing was chosen: both are charged.")
        return
    body: dict[str, Any] = {"charge": choice}
    if in_days is not None:
        body["valid_from"] = time.time() + in_days * DAY_SECONDS
    created = session.api().post("prices/charge", body)
    paid = {"both": "tokens and devices"}.get(choice, f"{choice} only")
    message = (
        f"Models of projects and fine-tuning jobs pay for {paid} from {format_timestamp(created.get('valid_from'))} on."
    )
    session.printer.print_message(created, message)


def _add(results: Sequence[Record]) -> dict[str, float]:
    sums = {name: sum(each[name] for each in results) for name in _MEASURES[:-1]}
    for share, measured in _SHARES.items():
        if seconds := sum(each.get(measured, 0) for each in results):
            sums[share] = sum(each.get(share, 0) * each.get(measured, 0) for each in results) / seconds
    return {**sums, "cost": sum(each["amount"]["value"] for each in results)}


def _totals(buckets: Sequence[Record], group: str) -> list[dict[str, Any]]:
    by_group: dict[str | None, list[Record]] = {}
    for bucket in buckets:
        for each in bucket["results"]:
            by_group.setdefault(each[group], []).append(each)
    rows = [{group: name, **_add(results)} for name, results in by_group.items()]
    return sorted(rows, key=lambda row: (-row["cost"], -row["gpu_seconds"], -row["core_seconds"], row[group] or ""))


def _columns(rows: Sequence[Record]) -> list[Column]:
    """Those of use only if it was measured."""
    from llmariner.cli.support.output import Column, format_number

    titles = {"gpu_seconds": "GPU HOURS", "core_seconds": "CORE HOURS", "memory_gib_seconds": "GIB HOURS"}
    hours = [Column(title, partial(_hours, name), right=True) for name, title in titles.items()]
    shares = {"gpu_utilization": "GPU USED", "gpu_idle_share": "GPU IDLE", "core_utilization": "CORES USED"}
    used = [
        Column(title, partial(_percent, name), right=True)
        for name, title in shares.items()
        if any(name in row for row in rows)
    ]
    return [*hours, *used, Column("COST $", lambda row: format_number(row["cost"], 6), right=True)]


def _hours(name: str, row: Record) -> str | None:
    from llmariner.cli.support.output import format_number

    return format_number(row[name] / HOUR_SECONDS, 3)


def _percent(name: str, row: Record) -> str | None:
    return f"{row[name]:.1%}" if name in row else None


def _names(session: Session, by: str) -> Callable[[str | None], str]:
    from llmariner.cli.support.subjects import display_names

    known = display_names(session, session.api()) if by in ("project", "user") else {}
    empty = {"device": "(no GPU)", "cluster": "(this one)"}.get(by, "(shared, unused)")
    return lambda id_: empty if id_ is None else str(known.get(id_, id_))
