"""`llma admin budgets`: spending limits of the organization, projects, users and keys."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import complete_budgets
from llmariner.cli.support.session import Session
from llmariner.cli.support.subjects import display_names, resolve_subject, subject_label, subject_options

__all__ = ["budgets"]


@click.group(cls=Group)
def budgets() -> None:
    """Budgets of the organization, its projects, users and keys."""


@budgets.command("list")
@pass_session
def list_budgets(session: Session) -> None:
    """List the budgets that you may see, with the amount spent."""
    from llmariner.cli.support.output import Column, format_dollars

    api = session.api()
    names = display_names(session, api) if session.printer.is_table else {}
    document = api.get("budgets")
    columns = [
        Column.of("id"),
        Column("FOR", subject_label(names)),
        Column.of("period"),
        Column("SPENT $", lambda each: format_dollars(each.get("spent")), right=True),
        Column("BUDGET $", lambda each: format_dollars(each.get("amount")), right=True),
        Column("ALERT AT", lambda each: _ratio(each.get("alert_ratio"))),
        Column("WHEN SPENT", lambda each: "refuse" if each.get("hard") else "continue"),
    ]
    session.printer.print_records(document, document["data"], columns, empty="There are no budgets.")


@budgets.command("set")
@subject_options
@click.option("--period", type=click.Choice(["day", "month", "total"]), default="month", show_default=True)
@click.option("--amount", metavar="DOLLARS", required=True, help="In US dollars, such as 25 or 0.50.")
@click.option(
    "--alert-at",
    metavar="PERCENT",
    type=click.FloatRange(0, 100, min_open=True),
    help="Alert at this share of the amount (80).",
)
@click.option("--soft", is_flag=True, help="Alert only; else requests are refused once it is spent.")
@pass_session
def set_budget(
    session: Session,
    project: str | None,
    user: str | None,
    key: str | None,
    period: str,
    amount: str,
    alert_at: float | None,
    soft: bool,
) -> None:
    """Set a budget for the organization, a project, a user or a key."""
    from llmariner.cli.support.output import format_dollars

    api = session.api()
    body: dict[str, Any] = {**resolve_subject(session, api, (project, user, key)), "period": period, "amount": amount}
    if alert_at is not None:
        body["alert_ratio"] = alert_at / 100
    created = api.post("budgets", {**body, "hard": not soft})
    what = f"{created.get('subject')} {created.get('subject_id')}"
    session.printer.print_message(
        created, f"Gave {what} {format_dollars(created.get('amount'))} dollars per {period} ({created.get('id')})."
    )


@budgets.command()
@click.argument("budget", metavar="ID", shell_complete=complete_budgets)
@pass_session
def delete(session: Session, budget: str) -> None:
    """Delete a budget."""
    from llmariner.cli.support.api import build_path

    answer = session.api().delete(build_path("budgets", budget))
    session.printer.print_message(answer, f"Took the budget {budget} away.")


def _ratio(ratio: Any) -> str | None:
    return None if ratio is None else f"{float(ratio) * 100:g}%"
