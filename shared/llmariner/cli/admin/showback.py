"""`llma admin showback`: who held which GPUs, cores and memory for how long, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.output import Column

__all__ = ["showback"]

DAY_SECONDS = 86_400
HOUR_SECONDS = 3600
_BAR_WIDTHS = range(8, 41)
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
    from llmariner.cli.support.bars import bar
    from llmariner.cli.support.output import Column

    start = (int(time.time()) // DAY_SECONDS - days + 1) * DAY_SECONDS
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
        maximum = max(day[measure] for day in sums)
        width = max(_BAR_WIDTHS[0], min(_BAR_WIDTHS[-1], session.printer.console().width - _FIGURES_WIDTH))
        bars = Column("", lambda day: bar(day[measure], maximum, width))
        session.printer.print_records({}, sums, [Column("DAY (UTC)", _day), *_columns(), bars], empty="")
        click.echo()
    what = Column(by.upper(), lambda row: names(row[_GROUPS[by]]))
    session.printer.print_records({}, rows, [what, *_columns()], empty="Nothing was held in that time.")


@showback.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["csv", "parquet"]), help="Default: by the extension of FILE; csv for -."
)
@click.option("--days", metavar="N", type=click.IntRange(min=1), default=31, show_default=True, help="How far back.")
@pass_session
def export(session: Session, file: Path, form: str | None, days: int) -> None:
    """Write every allocation to a file.

    As CSV or Parquet, those of the whole organization, one a line from its start to its end; - is stdout. Parquet needs
    the package's extra: pip install 'llmariner-knative[parquet]'.
    """
    from llmariner.cli.usage_export import write_csv, write_parquet

    chosen = form or ("parquet" if file.suffix == ".parquet" else "csv")
    write = write_parquet if chosen == "parquet" else write_csv
    start = int(time.time()) - days * DAY_SECONDS
    with session.api().download("organization/usage/compute/allocations", start_time=start) as chunks:
        count = write(chunks, file)
    if str(file) != "-":
        session.printer.print_message(
            {"file": str(file), "allocations": count}, f"Wrote {count:,} allocations to {file}."
        )


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


def _add(results: Sequence[Record]) -> dict[str, float]:
    sums = {name: sum(each[name] for each in results) for name in _MEASURES[:-1]}
    return {**sums, "cost": sum(each["amount"]["value"] for each in results)}


def _totals(buckets: Sequence[Record], group: str) -> list[dict[str, Any]]:
    by_group: dict[str | None, list[Record]] = {}
    for bucket in buckets:
        for each in bucket["results"]:
            by_group.setdefault(each[group], []).append(each)
    rows = [{group: name, **_add(results)} for name, results in by_group.items()]
    return sorted(rows, key=lambda row: (-row["cost"], -row["gpu_seconds"], -row["core_seconds"], row[group] or ""))


def _columns() -> list[Column]:
    from llmariner.cli.support.output import Column, format_number

    titles = {"gpu_seconds": "GPU HOURS", "core_seconds": "CORE HOURS", "memory_gib_seconds": "GIB HOURS"}
    hours = [Column(title, partial(_hours, name), right=True) for name, title in titles.items()]
    return [*hours, Column("COST $", lambda row: format_number(row["cost"], 6), right=True)]


def _hours(name: str, row: Record) -> str | None:
    from llmariner.cli.support.output import format_number

    return format_number(row[name] / HOUR_SECONDS, 3)


def _names(session: Session, by: str) -> Callable[[str | None], str]:
    from llmariner.cli.support.subjects import display_names

    known = display_names(session, session.api()) if by in ("project", "user") else {}
    empty = {"device": "(no GPU)", "cluster": "(this one)"}.get(by, "(shared, unused)")
    return lambda id_: empty if id_ is None else str(known.get(id_, id_))


def _day(row: Record) -> str:
    # Days are in UTC, independent of the local time zone.
    return time.strftime("%Y-%m-%d", time.gmtime(row["day"]))
