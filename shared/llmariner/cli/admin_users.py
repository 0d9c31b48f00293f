"""`llma admin users`: the people that one sees, and what they are."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.admin_organizations import without_prefix
from llmariner.cli.grammar import Group, pass_session
from llmariner.cli.places import complete_emails, find
from llmariner.cli.session import Session

__all__ = ["users"]


@click.group(cls=Group)
def users() -> None:
    """The people that you see, and what they are."""


@users.command("list")
@pass_session
def list_users(session: Session) -> None:
    """List the users that you see.

    As an owner, all of your organization; else those who share a project with you.
    """
    from llmariner.cli.printing import Column

    document = session.api().get("users")
    columns = [
        Column.of("id", "EMAIL"),
        Column("KIND", lambda each: "service account" if each.get("is_service_account") else "person"),
        Column("ORGANIZATION ROLE", lambda each: _roles(each.get("organization_role_bindings"), titles=False)),
        Column("PROJECT ROLES", lambda each: _roles(each.get("project_role_bindings"), titles=True)),
        Column.of("internal_id", "ID"),
    ]
    session.printer.records(document, document["users"], columns, empty="You see nobody.")


@users.command()
@click.argument("user", metavar="EMAIL_OR_ID", shell_complete=complete_emails)
@pass_session
def unlink(session: Session, user: str) -> None:
    """Let a person sign in anew, who moved to another issuer.

    Whoever signs in with their e-mail next becomes them. For owners of the default organization.
    """
    from llmariner.cli.api import path_of

    api = session.api()
    known = [{**each, "id": each["internal_id"], "email": each["id"]} for each in api.get("users")["users"]]
    found = find("user", known, user, listing="llma admin users list")
    deleted = api.delete(path_of("organization", "sign_in", "users", str(found["id"])))
    session.printer.message(deleted, f"{found['email']} signs in anew next time.")


def _roles(bindings: Any, *, titles: bool) -> str:
    """`Vision: member, Speech: owner`, or the bare roles."""
    found = [(str(each.get("title") or each.get("project_id")), without_prefix(each)) for each in bindings or ()]
    return ", ".join(f"{title}: {role}" if titles else role for title, role in found)
