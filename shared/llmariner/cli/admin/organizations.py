"""`llma admin organizations`: create, list and delete organizations, and manage their members."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.enumerations import role_name
from llmariner.cli.support.resolvers import (
    complete_assignable_roles,
    complete_emails,
    complete_organizations,
    resolve_organization,
    resolve_role,
)
from llmariner.cli.support.session import Session

__all__ = ["member_columns", "organizations", "removed_suffix"]

TITLE_ARGUMENT = click.argument("title", metavar="TITLE_OR_ID", shell_complete=complete_organizations)


@click.group(cls=Group)
def organizations() -> None:
    """Organizations and their members."""


@organizations.command()
@click.argument("title")
@pass_session
def create(session: Session, title: str) -> None:
    """Create an organization called TITLE, as its owner.

    For owners of the default organization.
    """
    created = session.api().post("organizations", {"title": title})
    session.printer.print_message(created, f"Made organization {created.get('title')} ({created.get('id')}).")


@organizations.command("list")
@pass_session
def list_organizations(session: Session) -> None:
    """List the organizations that you are a member of."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().get("organizations", include_summary="true")
    columns = [
        Column.of("id"),
        Column.of("title"),
        Column("DEFAULT", lambda each: "yes" if each.get("is_default") else None),
        Column("PROJECTS", lambda each: (each.get("summary") or {}).get("project_count"), right=True),
        Column("PEOPLE", lambda each: (each.get("summary") or {}).get("user_count"), right=True),
        Column("CREATED", lambda each: format_timestamp(each.get("created_at"))),
    ]
    session.printer.print_records(document, document["organizations"], columns, empty="You are in no organization.")


@organizations.command("get")
@TITLE_ARGUMENT
@pass_session
def get_organization(session: Session, title: str) -> None:
    """Show one organization."""
    from llmariner.cli.support.output import format_timestamp
    from llmariner.cli.support.resolvers import find_record

    found = session.api().get("organizations", include_summary="true")["organizations"]
    one = find_record("organization", found, title, listing="llma admin organizations list")
    summary = one.get("summary") or {}
    fields = {
        "id": one["id"],
        "title": one["title"],
        "default": "yes" if one.get("is_default") else "no",
        "projects": summary.get("project_count"),
        "people": summary.get("user_count"),
        "created": format_timestamp(one.get("created_at")),
    }
    session.printer.print_details(one, fields)


@organizations.command()
@TITLE_ARGUMENT
@pass_session
def delete(session: Session, title: str) -> None:
    """Delete an organization that has no projects."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = resolve_organization(session, api, title)
    answer = api.delete(build_path("organizations", found["id"]))
    session.printer.print_message(
        answer, f"Deleted organization {found['title']} ({found['id']}){removed_suffix(answer)}."
    )


@organizations.command("add-member")
@TITLE_ARGUMENT
@click.option("--email", required=True, help="User to add.")
@click.option(
    "--role",
    required=True,
    metavar="ROLE",
    shell_complete=complete_assignable_roles,
    help="owner, reader, tenant-system, or a custom role.",
)
@pass_session
def add_member(session: Session, title: str, email: str, role: str) -> None:
    """Add a member to an organization."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = resolve_organization(session, api, title)
    created = api.post(
        build_path("organizations", found["id"], "users"), {"user_id": email, "role": resolve_role(api, role)}
    )
    session.printer.print_message(
        created, f"Added {created.get('user_id')} to {found['title']} as {role_name(created)}."
    )


@organizations.command("list-members")
@TITLE_ARGUMENT
@pass_session
def list_members(session: Session, title: str) -> None:
    """List the members of an organization."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = resolve_organization(session, api, title)
    document = api.get(build_path("organizations", found["id"], "users"))
    session.printer.print_records(document, document["users"], member_columns(), empty="Nobody is in it.")


@organizations.command("remove-member")
@TITLE_ARGUMENT
@click.option("--email", required=True, shell_complete=complete_emails, help="Member to remove.")
@pass_session
def remove_member(session: Session, title: str, email: str) -> None:
    """Remove a member from an organization.

    Their keys in it are revoked, and their project memberships are removed.
    """
    from llmariner.cli.support.api import build_path

    api = session.api()
    found = resolve_organization(session, api, title)
    answer = api.delete(build_path("organizations", found["id"], "users", email))
    session.printer.print_message(answer, f"Removed {email} from {found['title']}{removed_suffix(answer)}.")


def member_columns() -> list[Any]:
    """The columns of the members of an organization or project."""
    from llmariner.cli.support.output import Column, format_timestamp

    return [
        Column.of("user_id", "EMAIL"),
        Column("ROLE", role_name),
        Column.of("name"),
        Column("SINCE", lambda each: format_timestamp(each.get("created_at"))),
        Column.of("internal_user_id", "ID"),
    ]


def removed_suffix(answer: Any) -> str:
    """The objects that were deleted as well, as the end of a sentence: `, and with it 2 api keys, 1 role`; empty if none."""
    counted = [
        f"{len(each)} {what.replace('_', ' ').removesuffix('s') if len(each) == 1 else what.replace('_', ' ')}"
        for what, each in (answer.get("removed") or {}).items()
        if each
    ]
    return f", and with it {', '.join(counted)}" if counted else ""
