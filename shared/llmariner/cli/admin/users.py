"""`llma admin users`: the people that one sees, what they are, and another role for one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.enumerations import role_name
from llmariner.cli.support.resolvers import complete_emails, complete_given_roles, complete_projects, find
from llmariner.cli.support.resolvers import project as find_project
from llmariner.cli.support.resolvers import role as role_of
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.api import Api

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
    from llmariner.cli.support.output import Column

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
    from llmariner.cli.support.api import path_of

    api = session.api()
    found = _find(api, user)
    deleted = api.delete(path_of("organization", "sign_in", "users", str(found["id"])))
    session.printer.message(deleted, f"{found['email']} signs in anew next time.")


@users.command("set-role")
@click.argument("email", metavar="EMAIL_OR_ID", shell_complete=complete_emails)
@click.option(
    "--role",
    required=True,
    metavar="ROLE",
    shell_complete=complete_given_roles,
    help="One that is there everywhere, or one that was made.",
)
@click.option(
    "--project", metavar="TITLE_OR_ID", shell_complete=complete_projects, help="There; else in the organization."
)
@pass_session
def set_role(session: Session, email: str, role: str, project: str | None) -> None:
    """Give somebody another role.

    In your organization, or in a project of it.
    """
    from llmariner.cli.support.api import path_of

    api = session.api()
    user = _find(api, email)
    wanted = {"role": role_of(api, role).lower().replace("-", "_")}
    if project is None:
        place, path = "the organization", path_of("organization/users", user["id"])
    else:
        there = find_project(session, api, project, None)
        place, path = there["title"], path_of("organization/projects", there["id"], "users", user["id"])
    answer = api.post(path, wanted)
    session.printer.message(answer, f"{user['email']} is {answer.get('role')} in {place} from now on.")


def _find(api: Api, said: str) -> dict[str, Any]:
    known = [{**each, "id": each["internal_id"], "email": each["id"]} for each in api.get("users")["users"]]
    return find("user", known, said, listing="llma admin users list")


def _roles(bindings: Any, *, titles: bool) -> str:
    """`Vision: member, Speech: owner`, or the bare roles."""
    found = [(str(each.get("title") or each.get("project_id")), role_name(each)) for each in bindings or ()]
    return ", ".join(f"{title}: {role}" if titles else role for title, role in found)
