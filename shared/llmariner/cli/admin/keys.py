"""`llma admin keys`: API keys that administer an organization and belong to no project."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.api_keys import DAY_SECONDS
from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import complete_admin_keys, find_record
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import write_stderr

__all__ = ["keys"]

KEYS = "organization/admin_api_keys"


@click.group(cls=Group)
def keys() -> None:
    """Keys that administer your organization."""


@keys.command()
@click.argument("name")
@click.option(
    "--expires-in", metavar="DAYS", type=click.FloatRange(min=0, min_open=True), help="Days until it expires."
)
@pass_session
def create(session: Session, name: str, expires_in: float | None) -> None:
    """Create an admin key called NAME. Its secret is shown only once."""
    body: dict[str, Any] = {"name": name}
    if expires_in is not None:
        body["expires_in_seconds"] = max(1, round(expires_in * DAY_SECONDS))
    created = session.api().post(KEYS, body)
    # Only the secret goes to stdout, so that `$(…)` captures it.
    session.printer.print_message(created, str(created.get("value", "")))
    if session.printer.is_table:
        write_stderr(
            f"This is the secret of admin key {created.get('name')} ({created.get('id')}). It is not shown again."
        )


@keys.command("list")
@pass_session
def list_keys(session: Session) -> None:
    """List admin keys."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages(KEYS)
    columns = [
        Column.of("id"),
        Column.of("name"),
        Column.of("redacted_value", "KEY"),
        Column("OWNER", lambda key: (key.get("owner") or {}).get("name")),
        Column("CREATED", lambda key: format_timestamp(key.get("created_at"))),
        Column("EXPIRES", lambda key: format_timestamp(key.get("expires_at")) or "never"),
        Column("LAST USED", lambda key: format_timestamp(key.get("last_used_at")) or "never"),
    ]
    session.printer.print_records(document, document["data"], columns, empty="No admin keys.")


@keys.command()
@click.argument("key", metavar="NAME_OR_ID", shell_complete=complete_admin_keys)
@pass_session
def delete(session: Session, key: str) -> None:
    """Revoke an admin key immediately."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = find_record("admin key", api.all_pages(KEYS)["data"], key, listing="llma admin keys list")
    answer = api.delete(build_path(KEYS, found["id"]))
    session.printer.print_message(answer, f"Deleted admin key {found['name']} ({found['id']}).")
