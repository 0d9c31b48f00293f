"""`llma models aliases`: list, get, create, set, rollback, history and delete."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.session import Session

__all__ = ["aliases"]

_reason = click.option("--reason", metavar="TEXT", default="", help="Why, for the history.")
_expected_revision = click.option(
    "--expected-revision", metavar="N", type=click.IntRange(min=1), help="Refuse if it has changed since."
)


@click.group(cls=Group)
def aliases() -> None:
    """Names of the project for models that change."""


@aliases.command("list")
@pass_session
def list_aliases(session: Session) -> None:
    """List aliases with what they point at."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages("model_aliases")
    columns = [
        Column.of("id", "ALIAS"),
        Column.of("model"),
        Column.of("revision"),
        Column("CHANGED", lambda each: format_timestamp(each.get("updated_at"))),
    ]
    session.printer.print_records(
        document, document["data"], columns, empty="No aliases; `llma models aliases create ALIAS MODEL` adds one."
    )


@aliases.command("get")
@click.argument("alias")
@pass_session
def get_alias(session: Session, alias: str) -> None:
    """Show what an alias points at."""
    from llmariner.cli.support.api import build_path
    from llmariner.cli.support.output import format_timestamp

    document = session.api().get(build_path("model_aliases", alias))
    session.printer.print_details(
        document,
        {
            "alias": document.get("id"),
            "model": document.get("model"),
            "revision": document.get("revision"),
            "created": format_timestamp(document.get("created_at")),
            "changed": format_timestamp(document.get("updated_at")),
        },
    )


@aliases.command("create")
@click.argument("alias")
@click.argument("model")
@_reason
@pass_session
def create_alias(session: Session, alias: str, model: str, reason: str) -> None:
    """Create an alias for MODEL."""
    document = session.api().post("model_aliases", {"alias": alias, "model": model, "reason": reason})
    _print_target(session, document)


@aliases.command("set")
@click.argument("alias")
@click.argument("model")
@_reason
@_expected_revision
@pass_session
def set_alias(session: Session, alias: str, model: str, reason: str, expected_revision: int | None) -> None:
    """Let an alias point at MODEL."""
    from llmariner.cli.support.api import build_path

    body: dict[str, Any] = {"model": model, "reason": reason, "expected_revision": expected_revision}
    _print_target(session, session.api().patch(build_path("model_aliases", alias), _said(body)))


@aliases.command("rollback")
@click.argument("alias")
@click.option("--to-revision", metavar="N", type=click.IntRange(min=1), help="Else the model before the last change.")
@_reason
@_expected_revision
@pass_session
def roll_back_alias(
    session: Session, alias: str, to_revision: int | None, reason: str, expected_revision: int | None
) -> None:
    """Let an alias point where it pointed before."""
    from llmariner.cli.support.api import build_path

    body: dict[str, Any] = {"revision": to_revision, "reason": reason, "expected_revision": expected_revision}
    _print_target(session, session.api().post(f"{build_path('model_aliases', alias)}/rollback", _said(body)))


@aliases.command("history")
@click.argument("alias")
@click.option("--limit", metavar="N", type=click.IntRange(1, 100), default=20, help="How many; the default is 20.")
@pass_session
def list_revisions(session: Session, alias: str, limit: int) -> None:
    """List where an alias pointed, the last change first."""
    from llmariner.cli.support.api import build_path
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().get(f"{build_path('model_aliases', alias)}/revisions", limit=limit)
    columns = [
        Column.of("revision"),
        Column.of("model"),
        Column.of("previous_model", "BEFORE"),
        Column.of("cause"),
        Column("AT", lambda each: format_timestamp(each.get("created_at"))),
        Column("BY", lambda each: each.get("fine_tuning_job_id") or each.get("user_id")),
        Column.of("reason"),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No changes.")


@aliases.command("delete")
@click.argument("alias")
@pass_session
def delete_alias(session: Session, alias: str) -> None:
    """Delete an alias."""
    from llmariner.cli.support.api import build_path

    document = session.api().delete(build_path("model_aliases", alias))
    session.printer.print_message(document, f"Deleted {alias}.")


def _said(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _print_target(session: Session, document: dict[str, Any]) -> None:
    said = f"{document['id']} points at {document['model']} by revision {document['revision']}."
    session.printer.print_message(document, said)
