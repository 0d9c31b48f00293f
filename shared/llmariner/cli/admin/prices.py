"""`llma admin prices`: prices of tokens and requests by model."""

from __future__ import annotations

import time
from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.session import Session

__all__ = ["prices"]

DAY_SECONDS = 86_400


@click.group(cls=Group)
def prices() -> None:
    """Prices of models, in US dollars."""


@prices.command("list")
@click.option("--model", metavar="MODEL", help="Only of this model; * is the price of all models without their own.")
@click.option("--all", "everything", is_flag=True, help="Past and future prices too.")
@pass_session
def list_prices(session: Session, model: str | None, everything: bool) -> None:
    """List the current prices."""
    from llmariner.cli.support.output import Column, format_dollars, format_timestamp

    at = None if everything else int(time.time())
    document = session.api().get("prices", model=model, at=at)

    def money(field: str, title: str) -> Column:
        return Column(title, lambda price: format_dollars(price.get(field)), right=True)

    columns = [
        Column.of("model"),
        Column.of("project_id", "PROJECT"),
        money("prompt", "PROMPT $/M"),
        money("cached_prompt", "CACHED $/M"),
        money("completion", "COMPLETION $/M"),
        money("request", "REQUEST $"),
        money("training", "TRAINING $/M"),
        Column("FROM", lambda price: format_timestamp(price.get("valid_from"))),
        Column("TO", lambda price: format_timestamp(price.get("valid_to"))),
        Column.of("id"),
    ]
    session.printer.print_records(
        document, document["data"], columns, empty="There are no prices: nothing costs anything."
    )


@prices.command("set")
@click.argument("model", metavar="MODEL")
@click.option("--prompt", metavar="DOLLARS", required=True, help="Per million prompt tokens, such as 0.15.")
@click.option("--completion", metavar="DOLLARS", required=True, help="Per million completion tokens.")
@click.option("--cached", metavar="DOLLARS", help="Per million cached prompt tokens; else as --prompt.")
@click.option("--request", metavar="DOLLARS", help="Per request; else nothing.")
@click.option("--training", metavar="DOLLARS", help="Per million trained tokens; else nothing.")
@click.option("--in-days", metavar="N", type=click.FloatRange(min=0), help="When it begins; else now.")
@click.option("--project", metavar="ID", help="For this project's own MODEL; else for the shared one.")
@pass_session
def set_price(
    session: Session,
    model: str,
    prompt: str,
    completion: str,
    cached: str | None,
    request: str | None,
    training: str | None,
    in_days: float | None,
    project: str | None,
) -> None:
    """Set the price of MODEL from now on, or from later.

    * is for all models without a price of their own; with --project, for all of that project's own. The present price
    ends when this one begins. The costs of earlier requests do not change.
    """
    from llmariner.cli.support.output import format_timestamp

    body: dict[str, Any] = {"model": model, "prompt": prompt, "completion": completion}
    optional = {"cached_prompt": cached, "request": request, "training": training, "project_id": project}
    body |= {name: message for name, message in optional.items() if message is not None}
    if in_days is not None:
        body["valid_from"] = time.time() + in_days * DAY_SECONDS
    created = session.api().post("prices", body)
    message = f"{model} costs that from {format_timestamp(created.get('valid_from'))} on ({created.get('id')})."
    session.printer.print_message(created, message)
