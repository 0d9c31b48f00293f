"""`llma admin invites`: create, list and delete invitations to the organization."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.api_keys import DAY_SECONDS
from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import (
    complete_assignable_roles,
    complete_invites,
    complete_projects,
    find_record,
    resolve_project,
    resolve_role,
)
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import write_stderr

__all__ = ["invites"]

INVITES = "organization/invites"


@click.group(cls=Group)
def invites() -> None:
    """Invitations to your organization."""


@invites.command()
@click.argument("email")
@click.option(
    "--role",
    metavar="ROLE",
    shell_complete=complete_assignable_roles,
    help="In the organization: reader (default), owner, or a custom role.",
)
@click.option(
    "--project",
    "projects",
    metavar="TITLE_OR_ID[:ROLE]",
    multiple=True,
    shell_complete=complete_projects,
    help="Project to join, as a member by default; repeat for several.",
)
@click.option(
    "--expires-in",
    metavar="DAYS",
    type=click.FloatRange(min=0, min_open=True),
    help="Days until it expires; 7 by default.",
)
@pass_session
def create(session: Session, email: str, role: str | None, projects: tuple[str, ...], expires_in: float | None) -> None:
    """Invite EMAIL. The token is shown only once: hand it over yourself, nothing is sent."""
    api = session.api()
    body: dict[str, Any] = {"email": email, **({} if role is None else {"role": resolve_role(api, role)})}
    if projects:
        body["projects"] = [_invited_project(session, api, each) for each in projects]
    if expires_in is not None:
        body["expires_in_seconds"] = max(1, round(expires_in * DAY_SECONDS))
    created = api.post(INVITES, body)
    # Only the token goes to stdout, so that `$(…)` captures it.
    session.printer.print_message(created, str(created.get("token", "")))
    if session.printer.is_table:
        write_stderr(
            f"{created.get('email')} comes in with `llma auth accept-invite TOKEN`, or by signing in with that e-mail. "
            "The token is not shown again."
        )


@invites.command("list")
@pass_session
def list_invites(session: Session) -> None:
    """List invitations, newest first."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages(INVITES)
    columns = [
        Column.of("id"),
        Column.of("email"),
        Column.of("role"),
        Column("PROJECTS", lambda each: len(each.get("projects") or ()), right=True),
        Column.of("status"),
        Column("EXPIRES", lambda each: format_timestamp(each.get("expires_at"))),
    ]
    session.printer.print_records(document, document["data"], columns, empty="Nobody is invited.")


@invites.command()
@click.argument("invite", metavar="EMAIL_OR_ID", shell_complete=complete_invites)
@pass_session
def delete(session: Session, invite: str) -> None:
    """Revoke an invitation."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    pending = [each for each in api.all_pages(INVITES)["data"] if each.get("status") != "accepted"]
    found = find_record("open invitation", pending, invite, listing="llma admin invites list")
    answer = api.delete(build_path(INVITES, found["id"]))
    session.printer.print_message(answer, f"Took back the invitation of {found['email']} ({found['id']}).")


def _invited_project(session: Session, api: Any, value: str) -> dict[str, str]:
    """A project by `TITLE[:ROLE]`, such as `Vision:viewer`; a colon without a role after it is part of the title."""
    title, colon, role = value.rpartition(":")
    has_role = role in ("owner", "member", "viewer") or role.startswith("role_")
    found = resolve_project(session, api, title if colon and has_role else value, None)
    return {"id": found["id"], **({"role": role} if colon and has_role else {})}
