"""`llma admin audit`: the audit log of the organization, and the verification of its hash chain."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session

__all__ = ["audit"]

DAY_SECONDS = 86_400
PAGE = 100
"""The page size limit of the API."""


@click.group(cls=Group)
def audit() -> None:
    """The audit log: administrative actions and logins."""


@audit.command("list")
@click.option(
    "--type", "types", metavar="EVENT", multiple=True, help="Event type, such as project.created; repeat for several."
)
@click.option("--actor", "actors", metavar="ID_OR_EMAIL", multiple=True, help="Actor: a user, or a key.")
@click.option("--resource", "resources", metavar="ID", multiple=True, help="Resource that was changed.")
@click.option("--project", "projects", metavar="ID", multiple=True, help="Project of the event.")
@click.option("--days", metavar="N", type=click.IntRange(min=1), help="How far back to look; else to the beginning.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=50, show_default=True, help="Newest N.")
@pass_session
def list_audit(
    session: Session,
    types: tuple[str, ...],
    actors: tuple[str, ...],
    resources: tuple[str, ...],
    projects: tuple[str, ...],
    days: int | None,
    limit: int,
) -> None:
    """List audit log entries, newest first."""
    from llmariner.cli.support.output import Column, format_timestamp

    query: dict[str, Any] = {
        "view": "all",
        "event_types[]": types,
        "actor_emails[]": [actor for actor in actors if "@" in actor],
        "actor_ids[]": [actor for actor in actors if "@" not in actor],
        "resource_ids[]": resources,
        "project_ids[]": projects,
        "effective_at[gte]": int(time.time()) - days * DAY_SECONDS if days else None,
    }
    api = session.api()
    filters = {name: value for name, value in query.items() if value}
    document = api.all_pages("organization/audit_logs", max_records=limit, limit=min(limit, PAGE), **filters)
    columns = [
        Column("TIME", lambda entry: format_timestamp(entry.get("effective_at"))),
        Column("ACTOR", _actor),
        Column("EVENT", _event),
        Column("RESOURCE", lambda entry: (entry.get(entry["type"]) or {}).get("id")),
        Column("PROJECT", _project),
        Column("FROM", _source),
        Column.of("id"),
    ]
    session.printer.print_records(document, document["data"], columns, empty="Nothing was done.")


@audit.command()
@click.option("--head", metavar="HASH", help="A head that this command showed earlier; it must still be in the chain.")
@pass_session
def verify(session: Session, head: str | None) -> None:
    """Verify the hash chain of the audit log.

    It fails where an entry was changed, removed, added or moved.

    Store the head hash outside the platform: with write access to the whole database one could forge a new chain, but
    not one that contains the stored head.
    """
    result = session.api().get("organization/audit_logs:verify", head=head)
    if not result["whole"]:
        session.printer.print_message(result, f"Entries that are as they were written: {result['entries']}.")
        where = f"entry {result['broken_at']}" if result["broken_at"] else "the chain"
        raise CommandError(
            ExitCode.REJECTED,
            f"the audit log was tampered with: {where}: {result['reason']}.",
            next_step="keep the database as it is, and compare it with a backup from before.",
        )
    session.printer.print_message(result, f"The log is whole: {result['entries']} entries, head {result['head']}.")


def _event(entry: Mapping[str, Any]) -> str:
    """The event type, with the count where one entry stands for several events."""
    count = (entry.get(entry["type"]) or {}).get("count", 1)
    return f"{entry['type']} (x{count})" if count > 1 else str(entry["type"])


def _actor(entry: Mapping[str, Any]) -> str | None:
    """The actor's e-mail, else its id; with the key id for an API key."""
    actor = entry.get("actor") or {}
    details = actor.get(actor.get("type", ""), {})
    user = details.get("user") or details.get("service_account") or {}
    name = user.get("email") or user.get("id")
    return f"{name} ({details['id']})" if actor.get("type") == "api_key" else name


def _project(entry: Mapping[str, Any]) -> str | None:
    project = entry.get("project") or {}
    return project.get("name") or project.get("id")


def _source(entry: Mapping[str, Any]) -> str | None:
    actor = entry.get("actor") or {}
    address: str | None = actor.get(actor.get("type", ""), {}).get("ip_address")
    return address
